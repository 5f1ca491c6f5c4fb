module taskmint.dev/tests/vectors/judge/svid

go 1.21
