package fleet_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/fleet"
)

type answer struct {
	Job, PID int
	Stuck    bool
}

// Job 0 looks at no context.
var program = fleet.Program[int, answer]{
	Env: "BOOTLOCK_FLEET_TEST",
	Do: func(_ context.Context, _ time.Time, job int) answer {
		fmt.Println("a library that prints")
		if job == 0 {
			select {}
		}
		return answer{Job: job, PID: os.Getpid()}
	},
	Stuck: func(time.Duration) answer { return answer{Stuck: true, PID: os.Getpid()} },
}

func TestMain(m *testing.M) {
	if program.IsWorker() {
		if program.Work(os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A worker lives for many jobs, whatever is printed meanwhile. One that does not come
// back says so, and is replaced.
func TestStuckWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	f, err := program.Start(2)
	if err != nil {
		t.Fatal(err)
	}
	do := func(job int, timeout time.Duration) []answer {
		answers, err := f.Do(2, job, timeout)
		if err != nil {
			t.Fatal(err)
		}
		return answers
	}
	first, second, stuck, after := do(7, time.Minute), do(8, time.Minute), do(0, time.Millisecond), do(9, time.Minute)
	for i := range 2 {
		if first[i].Job != 7 || second[i].Job != 8 || second[i].PID != first[i].PID {
			t.Errorf("got %+v and then %+v; want both jobs done by one process", first[i], second[i])
		}
		if !stuck[i].Stuck || after[i].Job != 9 || after[i].PID == stuck[i].PID {
			t.Errorf("got %+v and then %+v; want one that is stuck, and another process after it", stuck[i], after[i])
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
