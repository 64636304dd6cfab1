package main

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// check asks a query that must be true.
func check(ctx context.Context, dsn, query string) error {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	var ok bool
	if err := db.QueryRowContext(ctx, query).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("after the next start, this is not true: %s", query)
	}
	return nil
}

func (o outcome) median() time.Duration {
	if len(o.times) == 0 {
		return 0
	}
	times := slices.Sorted(slices.Values(o.times))
	return times[len(times)/2].Round(time.Millisecond)
}

func (o outcome) ms() string {
	if len(o.times) == 0 {
		return "–"
	}
	return fmt.Sprintf("%d ms", o.median().Milliseconds())
}

func table(version string, r *racer, results []*result) string {
	var b strings.Builder
	short, _, _ := strings.Cut(version, " ")
	fmt.Fprintf(&b, `# Migration tools that are not Go, raced

Printed by `+"`go run ./tools`"+` in [cmd/bootlock](../cmd/bootlock).

%s processes on a fresh database, %s times: PostgreSQL %s, %d CPUs, loopback. A gate in front of the
server lets their first connections through together, and times count from then.
Each tool has two ordinary migrations, in [testdata/recipes](../cmd/bootlock/testdata/recipes), or brings its own schema.
Alone is the tool as its README starts it; the guard is `+"`bootlock run --lock NAME -- TOOL`"+`.
A round counts as broken if the next start, by a single process, fails or finds that something is missing or there twice.

| tool | version | its own lock | alone: failed of processes, N = %s | rounds left broken | guarded: failed of processes | until all are ready, N = %d: alone · guarded |
| --- | --- | --- | --- | --- | --- | --- |
`, sizesText(r.sizes, func(s size) int { return s.processes }), sizesText(r.sizes, func(s size) int { return s.rounds }), short, runtime.NumCPU(),
		sizesText(r.sizes, func(s size) int { return s.processes }), r.sizes[len(r.sizes)-1].processes)
	total, failed, lost, raced := 0, 0, 0, 0
	for _, res := range results {
		if res.missing != nil {
			fmt.Fprintf(&b, "| %s | | | not run: %v | | | |\n", res.name, res.missing)
			continue
		}
		broken, rounds, alone := 0, 0, 0
		for i := range res.alone {
			broken, rounds, alone = broken+res.alone[i].bad, rounds+res.alone[i].rounds, alone+res.alone[i].failed
			total, failed = total+res.guarded[i].processes, failed+res.guarded[i].failed+res.guarded[i].bad
		}
		raced++
		if alone > 0 {
			lost++
		}
		last := len(res.alone) - 1
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d of %d | %s | %s · %s |\n", res.name, res.version, res.lock,
			outcomes(res.alone), broken, rounds, outcomes(res.guarded), res.alone[last].ms(), res.guarded[last].ms())
	}
	fmt.Fprintf(&b, "\nAlone, %d of %d tools lose the race; under the guard %d of %d processes failed or left something broken.\n", lost, raced, failed, total)
	fmt.Fprintf(&b, `
## Once for all

%d processes, time from the gate until all are ready, median of %d rounds. Under the lock each starts the tool in its turn, which then
finds nothing to do; with `+"`--unless`"+` it is not even started.

| tool | --unless | under the lock | with --unless | failed |
| --- | --- | --- | --- | --- |
`, many, r.manyRounds)
	for _, res := range results {
		if res.missing == nil && res.once.rounds > 0 {
			fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %d of %d |\n", res.name, res.unless, res.plain.ms(), res.once.ms(),
				res.plain.failed+res.once.failed, res.plain.processes+res.once.processes)
		}
	}
	b.WriteString("\n## How they fail alone\n\nThe most frequent errors.\n\n")
	for _, res := range results {
		for i, e := range res.mostFrequent() {
			if i < 2 {
				fmt.Fprintf(&b, "- %s, %d ×: `%s`\n", res.name, res.errors[e], strings.ReplaceAll(e, "`", "'"))
			}
		}
	}
	return b.String()
}

func (res *result) mostFrequent() []string {
	var all []string
	for e := range res.errors {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b string) int {
		if n := res.errors[b] - res.errors[a]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	return all
}

func outcomes(list []outcome) string {
	var parts []string
	for _, o := range list {
		parts = append(parts, fmt.Sprintf("%d/%d", o.failed, o.processes))
	}
	return strings.Join(parts, " · ")
}

func sizesText(sizes []size, of func(size) int) string {
	var parts []string
	for _, s := range sizes {
		parts = append(parts, fmt.Sprint(of(s)))
	}
	return strings.Join(parts, " · ")
}

// shellWords is a command for sh, with a word for each argument.
func shellWords(args ...string) string {
	var words []string
	for _, arg := range args {
		words = append(words, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}
