package advisorylock

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

// Key is the bigint argument of PostgreSQL's pg_advisory functions. Any int64
// is valid. A key means something within one database only: the same key in two
// databases is two locks ("Advisory Locks" in the PostgreSQL manual, 13.3.5).
type Key int64

// KeyOf returns the key that stands for name: the first 8 bytes, big-endian, of
// its SHA-256. It is the same for ever, in every release and on every machine,
// and SQL computes it as
//
//	SELECT ('x' || left(encode(sha256(convert_to('name', 'UTF8')), 'hex'), 16))::bit(64)::bigint
//
// Give [Locker].Name the name as well, or [WithXactLock] and the others show nothing but
// the number in errors and traces.
//
// Many programs use hashtext instead, but PostgreSQL does not promise that its value
// stays the same, and it has only 32 bits.
func KeyOf(name string) Key {
	sum := sha256.Sum256([]byte(name))
	return Key(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // the bits, whatever their sign
}

// String is the key in decimal, as the pg_advisory functions take it.
func (k Key) String() string { return strconv.FormatInt(int64(k), 10) }
