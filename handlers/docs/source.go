package docs

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Each file is a part of the document; together they are the whole.
//
//go:embed openapi/*.yaml
var sources embed.FS

// tree is the whole document. It never changes.
var tree = sync.OnceValues(func() (*yaml.Node, error) { return join(sources) })

// join reads the parts in the order of their names. A place may be in several of them
// only where it is an object in all.
func join(parts fs.FS) (*yaml.Node, error) {
	names, err := fs.Glob(parts, "openapi/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list the parts: %w", err)
	}
	whole := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, name := range names {
		text, err := fs.ReadFile(parts, name)
		if err != nil {
			return nil, fmt.Errorf("read a part: %w", err)
		}
		var part yaml.Node
		if err := yaml.Unmarshal(text, &part); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(part.Content) != 1 {
			return nil, fmt.Errorf("%s: must be one object", name)
		}
		root, err := plain(part.Content[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := merge(whole, root); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return whole, nil
}

// merge adds an object's members to another's.
func merge(into, from *yaml.Node) error {
	if into.Kind != yaml.MappingNode || from.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: is in another part already", from.Line)
	}
	for i := 0; i < len(from.Content); i += 2 {
		name := from.Content[i].Value
		have := get(into, name)
		if have == nil {
			into.Content = append(into.Content, from.Content[i], from.Content[i+1])
			continue
		}
		if err := merge(have, from.Content[i+1]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// plain is a copy without YAML's aliases and merge keys, which JSON does not have.
func plain(n *yaml.Node) (*yaml.Node, error) {
	switch n.Kind {
	case yaml.AliasNode:
		return plain(n.Alias)
	case yaml.MappingNode:
		return plainObject(n)
	case yaml.SequenceNode:
		out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Line: n.Line}
		for _, item := range n.Content {
			p, err := plain(item)
			if err != nil {
				return nil, err
			}
			out.Content = append(out.Content, p)
		}
		return out, nil
	case yaml.ScalarNode:
		return n, nil
	case yaml.DocumentNode:
	}
	return nil, fmt.Errorf("line %d: is no part of JSON", n.Line)
}

func plainObject(n *yaml.Node) (*yaml.Node, error) {
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Line: n.Line}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		value, err := plain(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		switch {
		case key.Tag != "!!merge":
			if have := get(out, key.Value); have != nil {
				return nil, fmt.Errorf("line %d: %s is there already; only what is not may be merged", key.Line, key.Value)
			}
			out.Content = append(out.Content, key, value)
		case value.Kind != yaml.MappingNode:
			return nil, errors.New("only objects are merged")
		default:
			if err := merge(out, value); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// get returns an object's member, nil for none.
func get(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
