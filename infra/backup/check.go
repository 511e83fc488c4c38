package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// problemsShown is how many segments that are wrong an error names.
const problemsShown = 20

// Check reads a backup's every file, and returns its manifest where all of them are as it
// says. progress may be nil.
func Check(ctx context.Context, dir string, progress Progress) (Manifest, error) {
	m, err := Load(dir)
	if isMissing(err) {
		return m, fmt.Errorf("%s has no %s: it is no backup, or one that did not end: %w", dir, manifestName, err)
	}
	if err != nil {
		return m, err
	}
	if err := checkMigration("the backup", m.Migration); err != nil {
		return m, err
	}
	c := &check{dir: dir, progress: progress}
	for _, s := range m.Segments {
		c.total += s.Bytes
	}
	queue := make(chan Segment, len(m.Segments))
	for _, s := range m.Segments {
		queue <- s
	}
	close(queue)
	group, ctx := errgroup.WithContext(ctx)
	for range workers() {
		group.Go(func() error {
			for s := range queue {
				if ctx.Err() != nil {
					return fmt.Errorf("check: %w", ctx.Err())
				}
				c.add(c.checkSum(s))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return m, err //nolint:wrapcheck // wrapped inside
	}
	c.add(checkExtra(dir, m))
	if c.count > len(c.problems) {
		c.problems = append(c.problems, fmt.Errorf("and %d more", c.count-len(c.problems)))
	}
	if c.count > 0 {
		return m, fmt.Errorf("backup in %s is damaged: %w", dir, errors.Join(c.problems...))
	}
	return m, nil
}

type check struct {
	dir      string
	progress Progress

	mu       sync.Mutex
	done     int64
	total    int64
	problems []error
	count    int
}

func (c *check) add(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		return
	}
	if c.count++; c.count <= problemsShown {
		c.problems = append(c.problems, err)
	}
}

// checkSize makes sure that a segment is there, as long as it should be.
func checkSize(dir string, s Segment) error {
	info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(s.File)))
	if isMissing(err) {
		return fmt.Errorf("segment %s is missing", s.File)
	}
	if err != nil {
		return fmt.Errorf("segment %s: %w", s.File, err)
	}
	if info.Size() != s.Bytes {
		return fmt.Errorf("segment %s is cut or altered: it has %d bytes, the manifest says %d", s.File, info.Size(), s.Bytes)
	}
	return nil
}

func (c *check) checkSum(s Segment) error {
	if err := checkSize(c.dir, s); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(c.dir, filepath.FromSlash(s.File)))
	if err != nil {
		return fmt.Errorf("segment %s: %w", s.File, err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("segment %s: %w", s.File, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != s.SHA256 {
		return fmt.Errorf("segment %s is altered: its SHA-256 is not what the manifest says", s.File)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.progress != nil {
		c.progress("checking", c.done, c.total)
	}
	return nil
}

// checkExtra finds files that are of no backup, or of another one: a segment too many may
// mean that the manifest is an old one. What a backup leaves that did not end is none.
func checkExtra(dir string, m Manifest) error {
	known := map[string]bool{manifestName: true, lockName: true}
	for _, s := range m.Segments {
		known[s.File] = true
	}
	for _, file := range m.Replaced {
		known[file] = true
	}
	var extra []error
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err //nolint:wrapcheck // wrapped below
		}
		name = filepath.ToSlash(name)
		switch {
		case d.IsDir() && name == generationDir(m.Generation+1):
			return filepath.SkipDir
		case d.IsDir() || known[name] || strings.HasSuffix(name, tmpSuffix) || d.Name() == unfinishedName:
		default:
			extra = append(extra, fmt.Errorf("%s is not in the manifest", name))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if len(extra) > problemsShown {
		extra = append(extra[:problemsShown], fmt.Errorf("and %d more files", len(extra)-problemsShown))
	}
	return errors.Join(extra...)
}
