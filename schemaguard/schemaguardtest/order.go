package schemaguardtest

import (
	"strings"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// CheckOrder fails the test if the steps that rec has recorded are not those of
// want, in this order, and says where the two part. want is what [ExpectEnsure]
// and [ExpectGuard] return, or the like written by hand: "connect > begin >
// lock! > rollback > release", where a ! marks a step that fails.
func CheckOrder(t TB, rec *locktrace.Recorder, want string) {
	t.Helper()
	steps, got := rec.Steps(), rec.String()
	if got == want {
		return
	}
	gotSteps, wantSteps := strings.Split(got, " > "), strings.Split(want, " > ")
	same := 0
	for same < len(gotSteps) && same < len(wantSteps) && gotSteps[same] == wantSteps[same] {
		same++
	}
	at := func(steps []string) string {
		if same == len(steps) || steps[same] == "" {
			return "the end"
		}
		return steps[same]
	}
	reason := ""
	if same < len(steps) && steps[same].Err != nil {
		reason = ": " + steps[same].Err.Error()
	}
	t.Errorf("step %d is %s; want %s%s\ngot  %s\nwant %s", same+1, at(gotSteps), at(wantSteps), reason, got, want)
}
