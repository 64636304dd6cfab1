package report

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
)

// The README's line stands between these.
const (
	summaryBegin = "<!-- benchmarks -->"
	summaryEnd   = "<!-- /benchmarks -->"
)

// withSummary is the README with the line of these results.
func (r *Report) withSummary(readme []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(readme, []byte(summaryBegin))
	_, after, ended := bytes.Cut(rest, []byte(summaryEnd))
	if !ok || !ended {
		return nil, errors.New("report: the README has no place for the line of the benchmarks")
	}
	return []byte(string(before) + summaryBegin + r.summary() + summaryEnd + string(after)), nil
}

// summary is the README's line: what is better, and what is not.
func (r *Report) summary() string {
	hold, _ := r.find(uncontended.Lock, peers.Hold, "pgx")
	byHand, _ := r.find(uncontended.Lock, peers.ByHand, "pgx")
	next, nextByHand := r.handoffOf(peers.Hold, 8), r.handoffOf(peers.ByHand, 8)
	pooled, _ := r.fleet(storm.UpToDate, four, goalN, 20, false)
	others, ready := 0, 0
	for _, row := range r.storm.Rows {
		if row.Connections == four && row.N == goalN && !row.Second && !storm.Own(row.Way) {
			others++
			if row.Ready > 0 {
				ready++
			}
		}
	}
	return fmt.Sprintf("**[Side by side](docs/benchmarks.md)** with %d other ways: through 4 pooled connections all of %d processes are ready after %s, as they are with %d of the others. "+
		"Where nothing is in the way a plain lock is faster: uncontended by hand %s, Hold %s; from one holder to the next %s and %s.",
		others, goalN, ms(pooled.Ready), ready, ms(byHand.P50), ms(hold.P50), ms(nextByHand.P50), ms(next.P50))
}
