"""Commands for users and developers of metajax."""
