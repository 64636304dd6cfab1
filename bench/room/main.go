// Command room measures how fleets start that are larger than what the server or
// the pooler has connections: how long until all are ready, what the wait of the
// others costs the one that migrates, and who fails.
//
//	room                    # all measurements; a table on standard output
//	room -waiting 60s       # what a hundred waiters cost the server instead
//	room -only 'direct, 32' # a part of the rows
//	room -old BINARY        # the same, next to another build of this command
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"
)

func main() {
	fleetJSON := flag.String("fleet", "", "start one fleet, given as JSON, and print its outcome (used by the command itself)")
	old := flag.String("old", "", "another build of this command, measured next to this one")
	waiting := flag.Duration("waiting", 0, "measure instead what a hundred waiters cost the server, over so long a time")
	short := flag.Bool("short", false, "a few rows only")
	only := flag.String("only", "", "a regular expression: only rows whose connections, processes and mode match it")
	flag.Parse()
	if *fleetJSON != "" {
		var f fleet
		if err := json.Unmarshal([]byte(*fleetJSON), &f); err != nil {
			fail(err)
		}
		_ = json.NewEncoder(os.Stdout).Encode(f.start())
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if *waiting > 0 {
		if err := measureWaiting(ctx, *waiting); err != nil {
			fail(err)
		}
		return
	}
	if err := measure(ctx, *old, *short, *only); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "room:", err)
	os.Exit(1)
}

// run starts a fleet with a build of this command, in a process of its own.
func run(ctx context.Context, binary string, f fleet) (outcome, error) {
	spec, err := json.Marshal(f)
	if err != nil {
		return outcome{}, err
	}
	cmd := exec.CommandContext(ctx, binary, "-fleet", string(spec))
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return outcome{}, err
	}
	var out outcome
	return out, json.Unmarshal(text, &out)
}
