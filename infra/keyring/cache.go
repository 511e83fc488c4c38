package keyring

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

func (r *recent[K, V]) len() int { return len(r.young) + len(r.old) }
