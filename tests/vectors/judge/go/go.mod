module taskmint.dev/tests/vectors/judge

go 1.21
