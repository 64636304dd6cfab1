package locks

import (
	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/fence"
)

// fences are the keys that go with locks: the gate for the transactions of a lease,
// and the high half of its numbers.
type fences struct {
	gates    map[advisorylock.Key]advisorylock.Key
	families map[uint32]advisorylock.Key
}

// fencesOf returns those of all locks that there are or that have a name: a
// transaction may be in a gate for longer than its lease lasts.
func fencesOf(locks []*Lock, known meanings) fences {
	f := fences{map[advisorylock.Key]advisorylock.Key{}, map[uint32]advisorylock.Key{}}
	for key := range known {
		f.add(key)
	}
	for _, l := range locks {
		if l.Key != nil {
			f.add(*l.Key)
		}
	}
	return f
}

func (f fences) add(key advisorylock.Key) {
	l := leaseOn(key)
	f.gates[advisorylock.Key(l.Gate())] = key
	f.families[l.Family()] = key
}

// leaseOn is any lease on key: its gate is that of all, and so is the high half of its
// number.
func leaseOn(key advisorylock.Key) fence.Lease {
	return fence.New(int64(key), 0, func() uint32 { return 0 })
}

func (f fences) find(key advisorylock.Key) (kind string, of advisorylock.Key) {
	if of, ok := f.gates[key]; ok {
		return Fence, of
	}
	if of, ok := f.families[uint32(uint64(key)>>32)]; ok { //nolint:gosec // the half of the bits
		return number, of
	}
	return Unknown, 0
}
