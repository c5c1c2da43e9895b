//! The table of the keys of calls that send input to a machine, with their answers.

use std::time::Duration;

use jiff::Timestamp;

use otter::storage::{IdempotencyKey, InputAnswer, StorageError, StoredInput};

use super::tables::{Input, Tables, ago, call, conflict, to_the_microsecond};

impl Tables {
    pub fn insert_input(&mut self, key: &IdempotencyKey) -> Result<(), StorageError> {
        if self.inputs.contains_key(&call(key)) {
            return Err(conflict("the key exists"));
        }
        let input = Input {
            fingerprint: key.fingerprint,
            created_at: key.created_at.as_microsecond(),
            answer: None,
        };
        self.inputs.insert(call(key), input);
        Ok(())
    }

    pub fn answer_input(&mut self, key: &IdempotencyKey, answer: InputAnswer) {
        let Some(input) = self.inputs.get_mut(&call(key)) else { return };
        let finished_at = to_the_microsecond(answer.finished_at);
        input.answer.get_or_insert(InputAnswer { finished_at, ..answer });
    }

    pub fn find_input(&self, key: &IdempotencyKey) -> Option<StoredInput> {
        let Input { fingerprint, created_at: _, answer } = self.inputs.get(&call(key))?;
        let fingerprint_matches = *fingerprint == key.fingerprint;
        Some(StoredInput { fingerprint_matches, answer: answer.clone() })
    }

    /// Deletes the keys that were stored too long ago. Returns their number.
    pub fn purge_inputs(&mut self, now: Timestamp, keys: Duration) -> u64 {
        let (before, known) = (ago(now, keys), self.inputs.len());
        self.inputs.retain(|_, input| input.created_at >= before);
        (known - self.inputs.len()) as u64
    }
}
