//! Durable key-value state of one module: its names, its bounds, and which entries there are. Holds no value and touches no
//! disk: the store does, and asks here whether a write may be.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Longest name of a bucket.
pub const MAX_BUCKET_BYTES: usize = 64;
/// The bucket of the host's own entries in a module's state. No guest can name it: [`check_bucket`] takes no control characters.
pub const HOST_BUCKET: &str = "\u{1}host";
/// Longest key.
pub const MAX_KEY_BYTES: usize = 256;
/// Longest value: as long as a message may be.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// What a module may keep: keys, values and [`ENTRY_BYTES`] for each. State is what a module must not forget (counters, marks,
/// calibration); series of readings belong upstream. 100 modules with all of it stay below what a small flash has to spare.
pub const QUOTA_BYTES: usize = 1024 * 1024;
/// What an entry counts besides its bytes: about what the host's index of it takes in memory.
pub const ENTRY_BYTES: usize = 128;

/// One change. Several that are written together happen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The bucket.
    pub bucket: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The new value; none removes the entry, and it is no error if there is none.
    pub value: Option<Bytes>,
    /// Some: only if the entry is so now (inner none: only if there is none).
    pub only_if: Option<Option<Bytes>>,
}

/// Why state was not read or written. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The name of the bucket is too long or has control characters.
    #[error("a bucket's name has at most {MAX_BUCKET_BYTES} bytes and no control characters")]
    BadBucket,
    /// The key is empty or too long.
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes")]
    BadKey,
    /// The value is too long.
    #[error("a value has at most {MAX_VALUE_BYTES} bytes")]
    TooLarge,
    /// There is no room.
    #[error(
        "a module keeps at most {QUOTA_BYTES} bytes (keys, values and {ENTRY_BYTES} for each entry); this would be {0}"
    )]
    Quota(usize),
    /// An entry is not as [`Write::only_if`] says.
    #[error("the entry has been changed")]
    Changed,
    /// The disk.
    #[error("{0}")]
    Store(String),
}

/// Checks a bucket's name; the empty one is a bucket too.
///
/// # Errors
/// [`StateError::BadBucket`].
pub fn check_bucket(name: &str) -> Result<(), StateError> {
    let good = name.len() <= MAX_BUCKET_BYTES && !name.chars().any(char::is_control);
    if good { Ok(()) } else { Err(StateError::BadBucket) }
}

/// Checks a key.
///
/// # Errors
/// [`StateError::BadKey`].
pub fn check_key(key: &str) -> Result<(), StateError> {
    let good = (1..=MAX_KEY_BYTES).contains(&key.len());
    if good { Ok(()) } else { Err(StateError::BadKey) }
}

/// The entries of a module and where the store has their values; `P` is the store's own word for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index<P> {
    buckets: BTreeMap<Box<str>, BTreeMap<Box<str>, Entry<P>>>,
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<P> {
    len: usize,
    place: P,
}

impl<P> Default for Index<P> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), bytes: 0 }
    }
}

impl<P> Index<P> {
    /// What the entries count against [`QUOTA_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where an entry's value is.
    #[must_use]
    pub fn place(&self, bucket: &str, key: &str) -> Option<&P> {
        Some(&self.buckets.get(bucket)?.get(key)?.place)
    }

    /// Keys of a bucket that begin with `prefix`, in order, after `after`; at most `max`.
    #[must_use]
    pub fn keys(&self, bucket: &str, prefix: &str, after: Option<&str>, max: usize) -> Vec<Box<str>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let Some(entries) = self.buckets.get(bucket) else { return Vec::new() };
        let from = match after {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        let keys = entries.range::<str, _>((from, Unbounded)).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).take(max).cloned().collect()
    }

    /// All entries: bucket, key, place.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &P)> {
        self.buckets
            .iter()
            .flat_map(|(bucket, entries)| entries.iter().map(move |(key, entry)| (&**bucket, &**key, &entry.place)))
    }

    /// Whether these writes may be made, one after another: names, sizes, and the quota once all are made. The host's own entries count, but
    /// are never refused for the quota: there is one of them, of bounded size, and what it says of the past must not get lost where a
    /// module is full. Conditions are the store's to compare.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, writes: &[Write]) -> Result<(), StateError> {
        let mut sizes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for write in writes {
            if *write.bucket != *HOST_BUCKET {
                check_bucket(&write.bucket)?;
            }
            check_key(&write.key)?;
            let len = write.value.as_ref().map_or(0, Bytes::len);
            if len > MAX_VALUE_BYTES {
                return Err(StateError::TooLarge);
            }
            let size = write.value.as_ref().map_or(0, |value| cost(&write.bucket, &write.key, value.len()));
            sizes.insert((&write.bucket, &write.key), size);
        }
        let (mut more, mut less) = (0, 0);
        for ((bucket, key), size) in sizes {
            more += size;
            less += self.cost_of(bucket, key);
        }
        let total = self.bytes + more - less;
        let is_of_host = writes.iter().all(|write| *write.bucket == *HOST_BUCKET);
        // What makes the state smaller is always allowed, whatever the quota was when it grew.
        if more > less && total > QUOTA_BYTES && !is_of_host { Err(StateError::Quota(total)) } else { Ok(()) }
    }

    /// Notes an entry and the place of its value.
    pub fn insert(&mut self, bucket: &str, key: &str, len: usize, place: P) {
        self.remove(bucket, key);
        self.bytes += cost(bucket, key, len);
        if !self.buckets.contains_key(bucket) {
            self.buckets.insert(bucket.into(), BTreeMap::new());
        }
        if let Some(entries) = self.buckets.get_mut(bucket) {
            entries.insert(key.into(), Entry { len, place });
        }
    }

    /// Forgets an entry, if there is one.
    pub fn remove(&mut self, bucket: &str, key: &str) {
        self.bytes -= self.cost_of(bucket, key);
        let Some(entries) = self.buckets.get_mut(bucket) else { return };
        entries.remove(key);
        if entries.is_empty() {
            self.buckets.remove(bucket);
        }
    }

    fn cost_of(&self, bucket: &str, key: &str) -> usize {
        let entry = self.buckets.get(bucket).and_then(|entries| entries.get(key));
        entry.map_or(0, |entry| cost(bucket, key, entry.len))
    }
}

fn cost(bucket: &str, key: &str, len: usize) -> usize {
    ENTRY_BYTES + bucket.len() + key.len() + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(bucket: &str, key: &str, value: Option<usize>) -> Write {
        let value = value.map(|len| Bytes::from(vec![b'x'; len]));
        Write { bucket: bucket.into(), key: key.into(), value, only_if: None }
    }

    fn apply(index: &mut Index<usize>, writes: &[Write]) {
        for write in writes {
            match &write.value {
                Some(value) => index.insert(&write.bucket, &write.key, value.len(), value.len()),
                None => index.remove(&write.bucket, &write.key),
            }
        }
    }

    #[test]
    fn what_would_exceed_the_quota_is_refused_and_what_makes_room_is_not() {
        let mut index = Index::default();
        for n in 0..3 {
            let writes = [write("b", &n.to_string(), Some(MAX_VALUE_BYTES))];
            index.check(&writes).unwrap();
            apply(&mut index, &writes);
        }
        assert!(matches!(index.check(&[write("b", "4", Some(MAX_VALUE_BYTES))]), Err(StateError::Quota(_))));
        index.check(&[write("b", "4", Some(MAX_VALUE_BYTES)), write("b", "0", None)]).unwrap();
        index.check(&[write("b", "0", Some(MAX_VALUE_BYTES))]).unwrap();
        assert_eq!(index.check(&[write("b", "0", Some(MAX_VALUE_BYTES + 1))]), Err(StateError::TooLarge));
    }

    #[test]
    fn names_have_bounds() {
        for bad in [write(&"b".repeat(65), "k", None), write("a\nb", "k", None)] {
            assert_eq!(Index::<()>::default().check(&[bad]), Err(StateError::BadBucket));
        }
        for bad in [String::new(), "k".repeat(257)] {
            assert_eq!(Index::<()>::default().check(&[write("", &bad, None)]), Err(StateError::BadKey));
        }
        Index::<()>::default().check(&[write("", &"k".repeat(256), Some(0))]).unwrap();
    }

    #[test]
    fn keys_come_by_prefix_in_order_and_page_by_page() {
        let mut index = Index::default();
        apply(&mut index, &["b", "a/1", "a/2", "a/3", "c"].map(|key| write("x", key, Some(1))));
        assert_eq!(index.keys("x", "a/", None, 2), ["a/1".into(), "a/2".into()] as [Box<str>; 2]);
        assert_eq!(index.keys("x", "a/", Some("a/2"), 2), ["a/3".into()] as [Box<str>; 1]);
        assert_eq!(index.keys("x", "", None, 9).len(), 5);
        assert!(index.keys("x", "a/", Some("a/3"), 2).is_empty() && index.keys("y", "", None, 9).is_empty());
    }

    #[test]
    fn the_hosts_own_entries_count_too_and_guests_cannot_name_their_bucket() {
        let mut index = Index::default();
        let own = [write(HOST_BUCKET, "timers", Some(100))];
        index.check(&own).unwrap();
        apply(&mut index, &own);
        assert_eq!(index.bytes(), cost(HOST_BUCKET, "timers", 100));
        assert_eq!(check_bucket(HOST_BUCKET), Err(StateError::BadBucket));
    }

    #[test]
    fn a_module_that_is_full_keeps_the_host_from_none_of_its_entries() {
        let mut index = Index::default();
        let room = QUOTA_BYTES - 4 * cost("b", "0", 0);
        for n in 0..4 {
            let writes = [write("b", &n.to_string(), Some(room / 4))];
            index.check(&writes).unwrap();
            apply(&mut index, &writes);
        }
        assert_eq!(index.bytes(), QUOTA_BYTES);
        for len in [100, 120] {
            let own = [write(HOST_BUCKET, "timers", Some(len))];
            assert_eq!(index.check(&own), Ok(()));
            apply(&mut index, &own);
        }
        assert!(
            matches!(index.check(&[write("b", "more", Some(1))]), Err(StateError::Quota(_))),
            "they count nevertheless"
        );
        let both = [write(HOST_BUCKET, "timers", Some(120)), write("b", "more", Some(1))];
        assert!(matches!(index.check(&both), Err(StateError::Quota(_))));
    }

    proptest! {
        #[test]
        fn the_account_is_the_sum_of_the_entries(
            ops in prop::collection::vec((0..3_usize, 0..6_u8, prop::option::of(0..50_usize)), 0..60)
        ) {
            let mut index = Index::default();
            for (bucket, key, len) in ops {
                let one = [write(["", "b", "long"][bucket], &key.to_string(), len)];
                let before = index.bytes();
                prop_assert!(index.check(&one).is_ok());
                apply(&mut index, &one);
                let sum: usize = index.iter().map(|(bucket, key, len)| cost(bucket, key, *len)).sum();
                prop_assert_eq!(index.bytes(), sum);
                prop_assert!(len.is_some() || index.bytes() <= before);
            }
        }
    }
}
