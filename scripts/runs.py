"""The runs behind the results: presets, seeds, changes, and what they are held against."""

from typing import NamedTuple


class Run(NamedTuple):
    """One line of the table: a preset, and what it is held against."""

    name: str  # Of the preset, unless `preset` says else.
    seeds: tuple[int, ...] = (0,)
    published: str = "-"
    preset: str | None = None
    flags: tuple[str, ...] = ()  # Where the run departs from its preset.
    shots: tuple[int, ...] = ()  # Of further tests, with as many queries.
    tests: dict[str, tuple[str, ...]] = {}  # Further lines of the table: their flags.
    published_tests: dict[str, str] = {}
    # (place on the axis, metric) to the range that the mean must be in.
    targets: dict[tuple[int, str], tuple[float, float]] = {}
    exact: str = "-"  # What is known to be best.


class Pictures(NamedTuple):
    """Pictures of a run that are kept beside its result."""

    run: str  # With its seed.
    names: tuple[str, ...]


class Study(NamedTuple):
    """Several experiments that one command runs, with a table of their own."""

    name: str  # Of the module, and of what is kept.
    flags: tuple[str, ...] = ()
    seed: int = 0


# What re-implementations of 20-way MAML do otherwise, one change at a time, and together.
_USUAL = ("--inner_rate=0.1", "--adapted=", "--init_std=0.125")
_ABLATION = {
    name: (*flags, "--num_steps=600")
    for name, flags in {
        "short": (),
        "low_rate": ("--inner_rate=0.1",),
        "all_adapted": ("--adapted=",),
        "small_head": ("--init_std=0.125",),
        "usual": _USUAL,
    }.items()
}

# Reptile's batches before small ones were found better.
_LARGE_BATCHES = (
    "--shots=15",
    "--inner_batch=25",
    "--inner_steps=3",
    "--num_tasks=10",
    "--eval_inner_steps=0,3,5",
    "--select_inner_steps=5",
)

# What took a GPU: more steps than two cores allow, and larger models.
_LONGER_PROTONET = ("--downsample=pool", "--num_steps=10000")
_LONGER_MAML_PLUS_PLUS = ("--downsample=pool", "--eval_every_steps=1000")
_LONGER_CIFAR_FS = ("--num_tasks=4", "--num_steps=6000")

_MORE_WAYS = {"20-way": ("--eval_ways=20",)}
_FIVE_SHOTS = {"5-shot": ("--eval_shots=5",)}

RUNS = [
    *(
        Run(
            name,
            seeds=(0, 1, 2),
            shots=(5, 10, 20),
            published="0.67, 0.38, 0.35 (1, 5, 10 steps; Finn et al. 2017)",
            targets={
                (1, "loss"): (0.0, 0.67),
                (5, "loss"): (0.0, 0.38),
                (10, "loss"): (0.0, 0.35),
            },
        )
        for name in ("sinusoid", "sinusoid_maml_clipped")
    ),
    *(
        Run(f"sinusoid_{learner}", seeds=(0, 1, 2), shots=(5, 10, 20))
        for learner in (
            "fomaml",
            "reptile",
            "anil",
            "boil",
            "meta_sgd",
            "meta_curvature",
            "cavia",
            "imaml",
            "maml_plus_plus",
            "warpgrad",
        )
    ),
    Run(
        "omniglot_5way_1shot",
        published="98.7 +- 0.4 (3 steps; Finn et al. 2017)",
        targets={(3, "accuracy"): (0.983, 0.991)},
    ),
    Run("omniglot_5way_1shot_inductive"),
    Run(
        "omniglot_5way_1shot_fomaml",
        flags=("--outer_rate=1e-3",),
        published="98.3 (Nichol et al. 2018)",
    ),
    Run(
        "omniglot_5way_1shot_fomaml_long",
        preset="omniglot_5way_1shot_fomaml",
        flags=("--num_steps=25000", "--eval_every_steps=2500"),
        published="98.3 (likewise)",
    ),
    Run("omniglot_5way_1shot_anil"),
    Run("omniglot_5way_1shot_meta_sgd"),
    Run(
        "omniglot_5way_1shot_reptile",
        flags=("--num_steps=15000", *_LARGE_BATCHES),
        published="97.68 (Nichol et al. 2018)",
    ),
    Run(
        "omniglot_5way_1shot_reptile_fresh",
        preset="omniglot_5way_1shot_reptile",
        flags=("--nokeep_inner_state", *_LARGE_BATCHES),
    ),
    Run(
        "omniglot_5way_1shot_reptile_small_batches",
        preset="omniglot_5way_1shot_reptile",
        flags=("--nokeep_inner_state",),
    ),
    Run(
        "omniglot_5way_1shot_reptile_inductive",
        flags=("--num_steps=15000",),
        published="95.39 (likewise)",
    ),
    Run("omniglot_5way_1shot_imaml", flags=("--num_steps=500",)),
    Run("omniglot_5way_1shot_maml_plus_plus", published="99.47 (Antoniou et al. 2019)"),
    Run(
        "omniglot_5way_1shot_maml_plus_plus_long",
        preset="omniglot_5way_1shot_maml_plus_plus",
        flags=(
            *_LONGER_MAML_PLUS_PLUS,
            "--num_steps=15000",
            "--multi_step_loss=3000",
        ),
        published="99.47 (likewise)",
    ),
    Run(
        "omniglot_20way_1shot",
        flags=("--num_steps=10586",),  # How far the GPU came.
        published="95.8 +- 0.3 (5 steps; Finn et al. 2017)",
    ),
    *(
        Run(f"omniglot_20way_1shot_{name}", preset="omniglot_20way_1shot", flags=flags)
        for name, flags in _ABLATION.items()
    ),
    Run(
        "omniglot_20way_1shot_usual_long",
        preset="omniglot_20way_1shot",
        flags=_USUAL,
        published="91 to 94 (re-implementations)",
    ),
    Run(
        "omniglot_20way_1shot_anil",
        flags=("--inner_rate=0.1",),
        published="96.2 (Raghu et al. 2020)",
    ),
    Run(
        "omniglot_20way_1shot_maml_plus_plus",
        published="97.65 (Antoniou et al. 2019)",
    ),
    Run(
        "omniglot_20way_1shot_maml_plus_plus_long",
        preset="omniglot_20way_1shot_maml_plus_plus",
        flags=(
            *_LONGER_MAML_PLUS_PLUS,
            "--num_steps=7000",
            "--multi_step_loss=1400",
        ),
        published="97.65 (likewise)",
    ),
    Run(
        "omniglot_5way_1shot_protonet",
        tests=_MORE_WAYS,
        published="98.8 (Snell et al. 2017)",
        published_tests={"20-way": "96.0"},
    ),
    Run(
        "omniglot_5way_1shot_protonet_support",
        preset="omniglot_5way_1shot_protonet",
        flags=("--normalization=support",),
        tests=_MORE_WAYS,
    ),
    Run(
        "omniglot_5way_1shot_protonet_long",
        preset="omniglot_5way_1shot_protonet",
        flags=_LONGER_PROTONET,
        tests=_MORE_WAYS,
        published="98.8 (likewise)",
        published_tests={"20-way": "96.0"},
    ),
    Run(
        "omniglot_5way_5shot_protonet",
        flags=_LONGER_PROTONET,
        tests=_MORE_WAYS,
        published="99.7 (likewise)",
        published_tests={"20-way": "98.9"},
    ),
    Run(
        "omniglot_5way_1shot_r2d2_long",
        preset="omniglot_5way_1shot_r2d2",
        flags=(*_LONGER_PROTONET, "--normalization=group"),
        published="98.6 (Bertinetto et al. 2019)",
    ),
    *(
        Run(f"omniglot_5way_1shot_{learner}", tests=_MORE_WAYS, published=published)
        for learner, published in {
            "r2d2": "-",
            "metaoptnet": "-",
            "matching_net": "98.1 (Vinyals et al. 2016)",
            "relation_net": "-",
        }.items()
    ),
    Run(
        "omniglot_5way_1shot_matching_net_60way",
        preset="omniglot_5way_1shot_matching_net",
        flags=("--ways=60", "--num_tasks=1"),
        tests=_MORE_WAYS,
    ),
    Run(
        "omniglot_5way_1shot_matching_net_60way_long",
        preset="omniglot_5way_1shot_matching_net",
        flags=(*_LONGER_PROTONET, "--ways=60", "--num_tasks=1"),
        published="98.1 (Vinyals et al. 2016)",
    ),
    Run(
        "omniglot_5way_1shot_relation_net_long",
        preset="omniglot_5way_1shot_relation_net",
        flags=_LONGER_PROTONET,
        published="99.6 (Sung et al. 2018)",
    ),
    Run("omniglot_5way_1shot_snail"),
    Run(
        "omniglot_5way_1shot_snail_long",
        preset="omniglot_5way_1shot_snail",
        flags=("--downsample=pool", "--num_steps=15000", "--eval_every_steps=1500"),
        published="99.07 (Mishra et al. 2018)",
    ),
    Run("cifar_fs_5way_1shot_protonet", tests=_FIVE_SHOTS, published="55.5"),
    Run("cifar_fs_5way_1shot_r2d2", tests=_FIVE_SHOTS, published="62.3"),
    Run(
        "cifar_fs_5way_1shot_maml",
        flags=("--queries=15", "--num_steps=10000", "--num_test_tasks=600"),
        published="58.9",
    ),
    Run("cifar_fs_5way_1shot_baseline", flags=("--num_steps=6000",), tests=_FIVE_SHOTS),
    *(
        Run(
            f"cifar_fs_5way_1shot_{learner}_{normalization}",
            preset=f"cifar_fs_5way_1shot_{learner}",
            flags=(*_LONGER_CIFAR_FS, f"--normalization={normalization}"),
            tests=_FIVE_SHOTS if normalization == "group" else {},
            published=one_shot,
            published_tests={"5-shot": five_shot},
        )
        for learner, one_shot, five_shot in (
            ("protonet", "55.5", "72.0"),
            ("r2d2", "62.3", "77.4"),
        )
        for normalization in ("group", "support")
    ),
    *(
        Run(
            f"clinc150_5way_1shot_{learner}_{fold}",
            preset=f"clinc150_5way_1shot_{learner}",
            flags=(f"--clinc_fold={fold}",),
            tests=_FIVE_SHOTS,
        )
        for learner in ("floor", "bag", "maml", "in_context")
        for fold in ("01", "02", "03", "04", "05")
    ),
    *(
        Run(
            f"cifar_fs_5way_1shot_lite0{learner}",
            tests=_FIVE_SHOTS,
        )
        for learner in ("", "_metric", "_ridge", "_anil")
    ),
    *(
        Run(
            f"clinc150_5way_1shot_minilm{learner}_{fold}",
            preset=f"clinc150_5way_1shot_minilm{learner}",
            flags=(f"--clinc_fold={fold}",),
            tests=_FIVE_SHOTS,
        )
        for learner in (
            *("", "_metric", "_ridge", "_anil", "_in_context"),
            *("_adapter", "_blocks"),
        )
        for fold in ("01", "02", "03", "04", "05")
    ),
    Run("mnist_permuted"),
    Run("mnist_permuted_1shot"),
    Run("mnist_pretrained"),
    Run("mnist_pretrained_1shot"),
    Run("mnist_random_init"),
    Run("mnist_random_init_1shot"),
    *(
        Run(f"mnist_permuted{shots}_{learner}")
        for learner in ("in_context", "hypernetwork", "protonet")
        for shots in ("", "_1shot")
    ),
    Run("mnist_rotations"),
    Run("glyphs_5way_1shot"),
]

# Of games, by the preset's folder; the table of their own has what trials earn.
_ANY = float("inf")
GAME_RUNS = [
    *(
        Run(
            f"bandit_{pulls}x{arms}{more}",
            seeds=(0, 1, 2),
            published=f"{published} (Duan et al. 2016)",
            exact=exact,
            targets={(pulls, "total"): (target, _ANY)} if target else {},
        )
        for pulls, arms, more, published, exact, target in (
            (10, 5, "", "6.7", "6.660, Bayes optimum", 6.63),
            (10, 10, "", "6.7", "6.714, Bayes optimum", 6.70),
            (10, 5, "_gru", "6.7", "6.660, Bayes optimum", 6.63),
            (100, 5, "", "78.7", "-", 78.0),
            (100, 10, "", "83.5", "-", 83.3),
            (100, 50, "", "84.9", "-", None),
            (500, 5, "", "401.6", "-", None),
        )
    ),
    Run(
        "tabular_mdp_10",
        seeds=(0, 1, 2),
        published="156.2 (Duan et al. 2016), 159.1 (Mishra et al. 2018)",
        exact="at most 218.4",
        targets={(10, "total"): (156.2, _ANY)},
    ),
    Run(
        "navigation_maml",
        seeds=(0, 1, 2),
        published="-40.41, -11.68, -3.33, -3.23 (Finn et al. 2017)",
        exact="at most -0.54",
        targets={
            (0, "return"): (-40.41 - 4.01, _ANY),
            (1, "return"): (-11.68 - 2.16, _ANY),
            (2, "return"): (-3.33 - 0.55, _ANY),
            (3, "return"): (-3.23 - 0.58, _ANY),
        },
    ),
    Run("navigation_fomaml", published="-", exact="at most -0.54"),
    Run(
        "tic_tac_toe",
        seeds=(0, 1, 2),
        exact="game 1 at most 0.656 over all rules, game 8 at most 0.919",
        tests={"seen rules": ("--tested_rules=seen",)},
        targets={(8, "return"): (0.85, 0.943), (1, "return"): (0.0, 0.656 + 0.014)},
    ),
    Run(
        "tic_tac_toe_gru",
        exact="likewise",
        tests={"seen rules": ("--tested_rules=seen",)},
    ),
    Run("key_door"),
    *(
        Run(f"connect_four{misere}{memory}", seeds=(0, 1, 2))
        for misere in ("", "_misere")
        for memory in ("", "_memoryless")
    ),
]

# Of learned update rules: on other trainings than they are learned on.
_NEAR = {
    "twice the width": ("--eval_hidden=64",),
    "twice the depth": ("--eval_layers=2",),
    "three times the steps": ("--eval_steps=600",),
    "CIFAR-FS": ("--eval_data=cifar_fs",),
}
_CARRIED = _NEAR | {
    "Omniglot": ("--eval_data=omniglot", "--eval_shots=15", "--eval_queries=5"),
    "convolutions": ("--eval_problem=convolution", "--eval_hidden=16"),
}
RULE_RUNS = [
    *(
        run
        for preset, kind, most, tests in (
            ("descent", "train", 0.5, _NEAR),
            ("generalization", "test", 0.9, _CARRIED),
        )
        for run in (
            Run(
                preset,
                tests=tests,
                targets={(200, f"over_adam_{kind}"): (0.0, most)},
            ),
            Run(
                f"{preset}_again",
                preset=preset,
                seeds=(1, 2),
                targets={(200, f"over_adam_{kind}"): (0.0, most)},
            ),
        )
    ),
    Run("schedule", tests=_NEAR),
    Run("schedule_generalization", tests=_NEAR),
]
PICTURES = [
    Pictures("descent-0", ("trainings.png", "rule.png")),
    Pictures("generalization-0", ("trainings.png",)),
    Pictures("tic_tac_toe-0", ("returns.png", "trial.gif")),
    Pictures("navigation_maml-0", ("trials.png",)),
]


class Door(NamedTuple):
    """An experiment whose presets are run."""

    name: str
    presets: str  # Their folder,
    results: str  # and that of what is kept, in experiments/results.
    runs: list[Run]


DOORS = [
    Door("few_shot", "experiments/presets", ".", RUNS),
    Door("meta_rl", "experiments/presets/meta_rl", "meta_rl", GAME_RUNS),
    Door(
        "learned_optimizer",
        "experiments/presets/learned_optimizer",
        "learned_optimizer",
        RULE_RUNS,
    ),
]

STUDIES = [
    Study("transition", ("--num_steps=6000", "--maps=1,64,1024,65536")),
    Study("regression_in_context"),
    Study("noisy_labels"),
]
