//! Numbers and texts in payloads: variable-length integers, lengths before bytes. Reading answers `None` where bytes are
//! missing or are not what they should be; nothing panics. Pure.

/// Adds to a payload.
pub(super) trait Put {
    fn put(&mut self, value: u64);
    fn put_bytes(&mut self, bytes: &[u8]);
    /// `value - base`, either sign.
    fn put_delta(&mut self, value: u64, base: u64);
}

impl Put for Vec<u8> {
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn put_delta(&mut self, value: u64, base: u64) {
        let delta = value.wrapping_sub(base) as i64;
        self.put(((delta << 1) ^ (delta >> 63)) as u64);
    }
}

/// Takes from a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take<'p>(pub(super) &'p [u8]);

impl<'p> Take<'p> {
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.number()?.try_into().ok()
    }

    pub(super) fn delta(&mut self, base: u64) -> Option<u64> {
        let coded = self.number()?;
        let delta = (coded >> 1) as i64 ^ -((coded & 1) as i64);
        Some(base.wrapping_add(delta as u64))
    }

    pub(super) fn bytes(&mut self) -> Option<&'p [u8]> {
        let len = self.number()?.try_into().ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'p str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(number: u64, other: u64, text: String) {
            let mut payload = Vec::new();
            payload.put(number);
            payload.put_delta(number, other);
            payload.put_bytes(text.as_bytes());
            let mut take = Take(&payload);
            prop_assert_eq!(take.number(), Some(number));
            prop_assert_eq!(take.delta(other), Some(number));
            prop_assert_eq!(take.text(), Some(&*text));
            prop_assert!(take.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut take = Take(&bytes);
            while take.number().is_some() && take.delta(7).is_some() && take.text().is_some() {}
        }
    }
}
