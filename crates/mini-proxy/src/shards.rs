//! A map of which a changed copy is cheap: it is cut into parts, and a copy shares all of them but
//! those that it changes. What changes one entry in 10,000 copies some forty.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const PARTS: usize = 256;

pub(crate) struct Shards<K, V> {
    parts: Vec<Arc<HashMap<K, V>>>,
}

impl<K, V> Clone for Shards<K, V> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { parts: vec![empty; PARTS] }
    }
}

fn part<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % PARTS as u64) as usize
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts[part(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        Arc::make_mut(&mut self.parts[part(&key)]).insert(key, value)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = &mut self.parts[part(key)];
        if part.contains_key(key) { Arc::make_mut(part).remove(key) } else { None }
    }

    /// In no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_copy_shares_what_it_did_not_change() {
        let mut old: Shards<String, u32> = Shards::default();
        for n in 0..10_000 {
            assert_eq!(old.insert(format!("app-{n}"), n), None);
        }
        let mut new = old.clone();
        assert_eq!(new.insert("app-7".into(), 70), Some(7));
        assert_eq!(new.remove("app-8"), Some(8));
        assert_eq!(new.remove("nobody"), None);
        assert_eq!((old.get("app-7"), old.get("app-8")), (Some(&7), Some(&8)));
        assert_eq!((new.get("app-7"), new.get("app-8")), (Some(&70), None));
        assert_eq!((old.len(), new.len()), (10_000, 9_999));
        let shared = old.parts.iter().zip(&new.parts).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= PARTS - 2, "{shared}");
    }
}
