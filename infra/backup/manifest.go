package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Format is the version of the format that this program writes; it reads no newer one.
const Format = 1

// Names in a backup's directory.
const (
	manifestName = "manifest.json"
	// unfinishedName is in the directory of a generation that is being written: what is
	// complete of it, so that a backup that was killed goes on from there.
	unfinishedName = "unfinished.json"
	lockName       = ".lock"
	tmpSuffix      = ".tmp"
)

// Limits of what is read from a directory.
const (
	// manifestBytesMax bounds a manifest: some 500 bytes for each segment.
	manifestBytesMax = 256 << 20
	shardsMax        = 1 << 15
)

// Manifest says what a backup consists of.
type Manifest struct {
	Format         int       `json:"format"`
	CreatedAt      time.Time `json:"createdAt"`
	ServiceVersion string    `json:"serviceVersion"`
	// Epoch names the log that the history is of.
	Epoch  string `json:"epoch"`
	Shards int    `json:"shards"`
	// Migration is the version of the schema.
	Migration int64 `json:"migration"`
	// Generation counts the backups made into the directory.
	Generation int `json:"generation"`
	// Horizon is since when message events are kept, zero for ever.
	Horizon  time.Time `json:"horizon,omitzero"`
	Segments []Segment `json:"segments"`
	// Replaced are files of earlier generations that may still be there.
	Replaced []string `json:"replaced,omitempty"`
}

// Segment is one file of rows, one JSON object a line.
type Segment struct {
	// File is relative to the directory, with slashes.
	File    string   `json:"file"`
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
	// Shard and what follows up to Days are of segments of history, which are each of one
	// shard and scope, in the order of positions.
	Shard         int    `json:"shard"`
	Scope         string `json:"scope,omitempty"`
	FirstPosition int64  `json:"firstPosition,omitempty,string"`
	LastPosition  int64  `json:"lastPosition,omitempty,string"`
	LastEventID   string `json:"lastEventId,omitempty"`
	// Days are those (UTC) that have message events.
	Days []string `json:"days,omitempty"`
	Rows int64    `json:"rows"`
	// RawBytes are those of the rows, Bytes and SHA256 of the compressed file.
	RawBytes int64  `json:"rawBytes"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"`
}

// Rows counts the rows of history and those of other tables.
func (m Manifest) Rows() (historyRows, otherRows int64) {
	for _, s := range m.Segments {
		if s.Table == history {
			historyRows += s.Rows
		} else {
			otherRows += s.Rows
		}
	}
	return historyRows, otherRows
}

// series are the segments of history of one shard and scope, in order.
func (m Manifest) series(shard int, scope string) []Segment {
	var out []Segment
	for _, s := range m.Segments {
		if s.Table == history && s.Shard == shard && s.Scope == scope {
			out = append(out, s)
		}
	}
	return out
}

// horizonPosition is the least position that message events have that are kept.
func (m Manifest) horizonPosition() int64 {
	if m.Horizon.IsZero() {
		return 0
	}
	return int64(events.MakePosition(m.Horizon.UnixMilli(), 0))
}

// Load reads a directory's manifest. Where there is none, the error is [fs.ErrNotExist].
func Load(dir string) (Manifest, error) {
	var m Manifest
	if err := loadJSON(filepath.Join(dir, manifestName), &m); err != nil {
		return m, err
	}
	return m, m.validate()
}

func loadJSON(path string, into *Manifest) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if info.Size() > manifestBytesMax {
		return fmt.Errorf("backup: %s: has %d bytes; allowed: %d", path, info.Size(), manifestBytesMax)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	// Whoever reads a later format must not trip over what it cannot know.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("backup: %s: is cut or altered: %w", path, err)
	}
	if head.Format > Format || head.Format < 1 {
		return fmt.Errorf("backup: %s: is of format %d; this program reads formats up to %d: use a newer tallymq", path, head.Format, Format)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("backup: %s: is cut or altered: %w", path, err)
	}
	return nil
}

// validate finds what no backup writes: a manifest is read like any input.
func (m Manifest) validate() error {
	if m.Shards < 1 || m.Shards > shardsMax {
		return fmt.Errorf("backup: %s: shards: is %d; allowed: 1 to %d", manifestName, m.Shards, shardsMax)
	}
	files := map[string]bool{}
	last := map[string]int64{}
	for _, s := range m.Segments {
		wrong := func(problem string) error {
			return fmt.Errorf("backup: %s: segment %q: %s", manifestName, s.File, problem)
		}
		switch {
		case !filepath.IsLocal(filepath.FromSlash(s.File)):
			return wrong("is not in the directory")
		case files[s.File]:
			return wrong("is named twice")
		case !isKnown(s.Table):
			return wrong("is of table " + s.Table + ", which this program does not know: use a newer tallymq")
		case len(s.Columns) == 0 || s.Rows < 0 || s.RawBytes < 0 || s.Bytes < 0:
			return wrong("has no columns, or sizes below zero")
		}
		files[s.File] = true
		if s.Table != history {
			continue
		}
		key := fmt.Sprint(s.Shard, "/", s.Scope)
		switch {
		case s.Shard < 0 || s.Shard >= m.Shards || !slices.Contains(scopes, s.Scope):
			return wrong(fmt.Sprintf("is of shard %d and scope %q", s.Shard, s.Scope))
		case s.FirstPosition <= last[key] || s.LastPosition < s.FirstPosition:
			return wrong("begins before the segment before it ends")
		}
		last[key] = s.LastPosition
	}
	return nil
}

// save writes a manifest so that there is either the old one or the new one.
func (m Manifest) save(path string, open opener) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	f, err := open(path + tmpSuffix)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+tmpSuffix, path)
	}
	if err != nil {
		_ = os.Remove(path + tmpSuffix)
		return fmt.Errorf("backup: %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("backup: %s: %w", dir, err)
	}
	return nil
}

// opener makes a file that is written from its beginning.
type opener func(path string) (*os.File, error)

func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:wrapcheck // the callers say what for
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
