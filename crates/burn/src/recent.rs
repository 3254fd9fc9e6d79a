//! A bounded map that forgets what was used longest ago.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// The most entries of one map: several problems in each layer of a model whose sequences come in a few lengths.
const MOST_ENTRIES: usize = 64;

/// The most bytes that the entries of one map hold on the device beyond the first entry. A backward plan holds up to 64 MiB on
/// CPU adapters.
const MOST_BYTES: u64 = 256 << 20;

/// Values by their keys, the most recently used ones.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, Entry<V>>,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: u64,
    bytes: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), clock: 0 }
    }
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// The value of `key`, made if it isn't there; `bytes` says what a value holds on the device.
    pub(crate) fn get_or_make<E>(
        &mut self,
        key: &K,
        make: impl FnOnce() -> Result<V, E>,
        bytes: impl FnOnce(&V) -> u64,
    ) -> Result<Arc<V>, E> {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = self.clock;
            return Ok(Arc::clone(&entry.value));
        }
        let value = Arc::new(make()?);
        let bytes = bytes(&value);
        self.make_room(bytes);
        let entry = Entry { value: Arc::clone(&value), used: self.clock, bytes };
        self.entries.insert(key.clone(), entry);
        Ok(value)
    }

    /// Forgets entries until one more of so many bytes fits.
    fn make_room(&mut self, bytes: u64) {
        let held = |map: &Self| map.entries.values().map(|entry| entry.bytes).sum::<u64>();
        while self.entries.len() >= MOST_ENTRIES
            || !self.entries.is_empty() && held(self) + bytes > MOST_BYTES
        {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.entries.remove(&key);
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn add(map: &mut Recent<usize, usize>, key: usize, bytes: u64) -> usize {
        *map.get_or_make::<Infallible>(&key, || Ok(key), |_| bytes).unwrap()
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten() {
        let mut map = Recent::default();
        for key in 0..MOST_ENTRIES {
            add(&mut map, key, 0);
        }
        add(&mut map, 0, 0);
        add(&mut map, MOST_ENTRIES, 0);
        assert_eq!(map.len(), MOST_ENTRIES);
        assert!(map.entries.contains_key(&0));
        assert!(!map.entries.contains_key(&1));
    }

    #[test]
    fn entries_hold_a_bounded_number_of_bytes() {
        let mut map = Recent::default();
        add(&mut map, 0, MOST_BYTES / 2);
        add(&mut map, 1, MOST_BYTES / 2);
        assert_eq!(map.len(), 2);
        // One that is larger than the bound stands alone.
        add(&mut map, 2, MOST_BYTES * 2);
        assert_eq!(map.len(), 1);
        add(&mut map, 3, 1);
        assert_eq!(map.len(), 1);
    }
}
