package advisorylock_test

import (
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
)

// A key that changes between two releases is no lock at all while one is rolled
// out over the other, and the byte order is part of it. The values were made
// with sha256sum, not with KeyOf.
func TestKeyOfIsTheSameForEver(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]advisorylock.Key{
		"":                      -2039914840885289964, // e3b0c44298fc1c14
		"a":                     -3848465438864589366, // ca978112ca1bbdca
		"app":                   -6813155839046105269, // a172cedcae47474b
		"payments":              -2362055637879771856, // df384ae97c77ad30
		"schemaguard:app":       -7534435102854613731, // 97704f316f1df51d
		"schemaguard:tenant 42": 7773771302558376783,  // 6be1fbcffe1e234f
		"Ümläut-日本語":            1324090013034869574,  // 12601cd9fd95f346
		"it's; DROP TABLE x--":  913798125015058033,   // 0cae768d9df0c671
		"two\nlines":            -1312586912669247741, // edc8c1284585d703
		"\x00":                  7940984811893783192,  // 6e340b9cffb37a98
		"not UTF-8: \xff\xfe":   -2962896080501248151, // d6e1adb67f536f69
	} {
		if got := advisorylock.KeyOf(name); got != want {
			t.Errorf("KeyOf(%q): got %d; want %d", name, got, want)
		}
	}
}
