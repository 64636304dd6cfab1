package demo

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// progressBar shows progress on a terminal, and a line per side elsewhere.
type progressBar struct {
	say    func(text string)
	writer progress.Writer // nil: not a terminal
}

func newProgressBar(o Options) *progressBar {
	bar := &progressBar{say: o.Say}
	if o.Terminal == nil {
		return bar
	}
	bar.writer = progress.NewWriter()
	bar.writer.SetOutputWriter(o.Terminal)
	bar.writer.SetAutoStop(false)
	bar.writer.SetStyle(progress.StyleBlocks)
	bar.writer.SetTrackerPosition(progress.PositionRight)
	bar.writer.SetUpdateFrequency(50 * time.Millisecond)
	bar.writer.Style().Visibility.Value = true
	bar.writer.Style().Visibility.ETA = true
	go bar.writer.Render()
	for !bar.writer.IsRenderInProgress() {
		time.Sleep(time.Millisecond)
	}
	return bar
}

// start begins a side of the given rounds; the result is called after each,
// with the failures so far.
func (b *progressBar) start(name string, rounds int) (next func(failures int)) {
	done := 0
	if b.writer == nil {
		return func(failures int) {
			done++
			b.say(fmt.Sprintf("%s: round %d of %d, %d failures so far", name, done, max(done, rounds), failures))
		}
	}
	tracker := &progress.Tracker{Message: name, Total: int64(rounds)}
	b.writer.AppendTracker(tracker)
	return func(failures int) {
		if done++; done > rounds {
			tracker.UpdateTotal(int64(done))
		}
		tracker.UpdateMessage(fmt.Sprintf("%-13s %d failures", name, failures))
		tracker.Increment(1)
	}
}

func (b *progressBar) stop() {
	if b.writer == nil {
		return
	}
	b.writer.Stop()
	for b.writer.IsRenderInProgress() {
		time.Sleep(time.Millisecond)
	}
}
