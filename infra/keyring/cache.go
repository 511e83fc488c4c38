package keyring

import "maps"

// recent remembers up to a number of values, those used last. Two generations make it
// forget what is no longer used. It is not safe for concurrent use.
type recent[K comparable, V any] struct {
	most       int
	young, old map[K]V
}

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	if value, ok = r.young[key]; ok {
		return value, true
	}
	if value, ok = r.old[key]; ok {
		r.put(key, value)
	}
	return value, ok
}

func (r *recent[K, V]) put(key K, value V) {
	if _, there := r.young[key]; !there && len(r.young) >= r.most/2 || r.young == nil {
		r.young, r.old = map[K]V{}, r.young
	}
	r.young[key] = value
	delete(r.old, key)
}

// drop forgets what a condition holds for.
func (r *recent[K, V]) drop(is func(K) bool) {
	for _, generation := range []map[K]V{r.young, r.old} {
		maps.DeleteFunc(generation, func(key K, _ V) bool { return is(key) })
	}
}

func (r *recent[K, V]) len() int { return len(r.young) + len(r.old) }
