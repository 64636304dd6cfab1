package schemaguard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// HashFS returns a name for [Guard.Once] that changes whenever a file in fsys does:
// the first 16 hexadecimal digits of SHA-256 over the lines that sha256sum prints for
// its files, in byte order. A shell has the same from
//
//	cd DIR && find -L . -type f -not -path '*/.*' -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum | cut -c1-16
//
// Files and directories whose name begins with a dot are left out, as by go:embed. To
// get the same from an embed.FS as from the folder itself, pass [fs.Sub] of the folder.
// HashFS panics if there is no file, or one that cannot be read: fsys is what the
// program was built with.
func HashFS(fsys fs.FS) string {
	var lines [][]byte
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		content, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		lines = append(lines, sumLine(path, content))
		return nil
	})
	if err == nil && len(lines) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		panic("schemaguard.HashFS: " + err.Error())
	}
	slices.SortFunc(lines, bytes.Compare)
	sum := sha256.Sum256(bytes.Join(lines, nil))
	return hex.EncodeToString(sum[:8])
}

// sumLine is the line of sha256sum, which marks and escapes what would break it.
func sumLine(path string, content []byte) []byte {
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(path)
	mark := ""
	if escaped != path {
		mark = `\`
	}
	return fmt.Appendf(nil, "%s%x  %s\n", mark, sha256.Sum256(content), escaped)
}
