package docs

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// JSON returns the document. Callers must not change it.
func JSON() ([]byte, error) { return document() }

var document = sync.OnceValues(func() ([]byte, error) {
	root, err := tree()
	if err != nil {
		return nil, err
	}
	return marshal(root)
})

// marshal writes a plain tree as JSON, its members in their order.
func marshal(n *yaml.Node, options ...jsontext.Options) ([]byte, error) {
	var buf bytes.Buffer
	if err := write(jsontext.NewEncoder(&buf, options...), n); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(buf.Bytes()), nil
}

func write(enc *jsontext.Encoder, n *yaml.Node) error {
	begin, end := jsontext.BeginArray, jsontext.EndArray
	switch n.Kind {
	case yaml.ScalarNode:
		return writeScalar(enc, n)
	case yaml.MappingNode:
		begin, end = jsontext.BeginObject, jsontext.EndObject
	case yaml.SequenceNode:
	case yaml.DocumentNode, yaml.AliasNode:
		return fmt.Errorf("line %d: is no part of JSON", n.Line)
	}
	if err := enc.WriteToken(begin); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	for i, item := range n.Content {
		var err error
		if isName := n.Kind == yaml.MappingNode && i%2 == 0; isName {
			err = enc.WriteToken(jsontext.String(item.Value))
		} else {
			err = write(enc, item)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", item.Line, err)
		}
	}
	return enc.WriteToken(end) //nolint:wrapcheck // whoever called names the line
}

func writeScalar(enc *jsontext.Encoder, n *yaml.Node) error {
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool":
		return enc.WriteValue(jsontext.Value(n.Value)) //nolint:wrapcheck // as above
	case "!!null":
		return enc.WriteToken(jsontext.Null) //nolint:wrapcheck // as above
	default:
		return enc.WriteToken(jsontext.String(n.Value)) //nolint:wrapcheck // as above
	}
}
