package hostile

import (
	"fmt"
	"math/rand/v2"
	"regexp"
)

var lockCall = regexp.MustCompile(`advisory_xact_lock(?:_shared)?\(\(?-?\d+`)

// AnotherKey makes of a message to a server one that asks for another lock, so that
// nobody gets the lock that they ask for. It has the same length.
func AnotherKey(message []byte) {
	for _, call := range lockCall.FindAll(message, -1) {
		copy(call[len(call)-6:], fmt.Sprintf("%06d", rand.IntN(1e6)))
	}
}
