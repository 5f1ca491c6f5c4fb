// The unmodified client go-spiffe against a running Taskmint.
//
// `client check` goes through the Workload API, `client serve` and `client call PORT` speak mTLS
// with a client of another language. Prints `ok NAME` or `FAIL NAME: why` for each step.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "check":
		err = check()
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	case len(os.Args) == 3 && os.Args[1] == "call":
		err = call(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: client check | serve | call PORT")
		os.Exit(64)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}
