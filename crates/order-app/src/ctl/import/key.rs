//! Idempotency keys for lines, so that whatever is imported again is created once.
//!
//! A key is made of what a line means and of how many lines before it mean the same. Adding,
//! removing or correcting lines therefore changes the keys of those lines only; spelling,
//! order of fields and format of the file do not matter.

use std::collections::HashMap;

use order_core::{CreateOrder, Error, Fingerprint, IdempotencyKey};

/// What a line means, in half of a SHA-256: enough to tell lines apart, and half the memory.
type Meaning = [u8; 16];

/// The most different lines of a file; they take about 500 MB.
const MEANINGS_MAX: usize = 10_000_000;

/// Makes the keys of a file, line by line from its beginning.
#[derive(Default)]
pub(super) struct KeyMaker {
    occurrences: HashMap<Meaning, u32>,
}

impl KeyMaker {
    /// The key of the next line, `orderctl-MEANING-OCCURRENCE`.
    ///
    /// # Errors
    /// If the file has more than ten million different lines.
    pub(super) fn next_key(&mut self, request: &CreateOrder) -> Result<IdempotencyKey, Error> {
        let mut meaning = Meaning::default();
        let fingerprint = Fingerprint::of_create(request);
        for (to, from) in meaning.iter_mut().zip(fingerprint.as_bytes()) {
            *to = *from;
        }
        let occurrence = self.occurrences.entry(meaning).or_insert(0);
        *occurrence = occurrence.saturating_add(1);
        let number = u128::from_be_bytes(meaning);
        let key = IdempotencyKey::parse(&format!("orderctl-{number:032x}-{occurrence}"))?;
        if self.occurrences.len() > MEANINGS_MAX {
            let rule = "has more than 10000000 different lines; import it in parts";
            return Err(Error::invalid("file", rule));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use order_core::{Money, UserId};

    use super::*;

    fn request(user: &str, amount: &str) -> CreateOrder {
        CreateOrder::new(
            UserId::parse(user).expect("valid"),
            Money::parse(amount, "USD").expect("valid"),
        )
    }

    fn keys(lines: &[(&str, &str)]) -> Vec<String> {
        let mut keys = KeyMaker::default();
        lines
            .iter()
            .map(|(user, amount)| {
                let key = keys.next_key(&request(user, amount)).expect("few lines");
                key.as_str().to_owned()
            })
            .collect()
    }

    #[test]
    fn a_key_is_stable() {
        // A change here makes every file that was imported before look new.
        assert_eq!(
            keys(&[("user-1", "100"), ("user-1", "100.00")]),
            [
                "orderctl-2b41819eeb986a28a3b609adf5c902b4-1",
                "orderctl-2b41819eeb986a28a3b609adf5c902b4-2",
            ]
        );
    }

    #[test]
    fn other_lines_do_not_change_a_key() {
        let before = keys(&[("a", "1"), ("b", "2"), ("a", "1")]);
        let after = keys(&[("new", "9"), ("a", "1"), ("a", "1")]);
        assert_eq!([&before[0], &before[2]], [&after[1], &after[2]]);
        assert_ne!(before[0], before[2]);
        assert_ne!(before[0], before[1]);
    }
}
