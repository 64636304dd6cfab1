package locks

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/fence"
)

// fences are the keys that go with locks: the gates for the transactions of a lease,
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
	for _, gate := range fence.New(int64(key), false, 0, func() uint32 { return 0 }).Gates() {
		f.gates[advisorylock.Key(gate)] = key
	}
	f.families[family(key)] = key
}

// family is the high half of the numbers that leases of key draw; see package
// fence.
func family(key advisorylock.Key) uint32 {
	sum := sha256.Sum256(fmt.Appendf(nil, "bootlock/number:%d", int64(key)))
	return binary.BigEndian.Uint32(sum[:4])
}

// find says what a key is, and which lock it goes with.
func (f fences) find(key advisorylock.Key) (kind string, of advisorylock.Key) {
	if of, ok := f.gates[key]; ok {
		return Fence, of
	}
	if of, ok := f.families[uint32(uint64(key)>>32)]; ok { //nolint:gosec // the half of the bits
		return Lease, of
	}
	return Unknown, 0
}
