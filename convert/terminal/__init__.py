"""How plans, progress, results and errors look in a terminal.

look            consoles, sizes, lines wrapped at words, progress, errors: whatever is shown
table           tables and pairs that fit the terminal
plan · report · inspection · memory · verification      one kind of value each

stdout is for what one may pipe (a dry run, `inspect`, JSON); everything else goes to stderr.
Readable without colour; NO_COLOR is honoured (by rich).
"""
