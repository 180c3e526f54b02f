//! VNC authentication (RFC 6143, 7.2.2): a challenge of 16 bytes, enciphered with DES under the password.

use des::Des;
use des::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};

/// Bytes of a challenge and of its answer.
pub const CHALLENGE_BYTES: usize = 16;
/// Bytes of a password that count.
const KEY_BYTES: usize = 8;
const BLOCK_BYTES: usize = 8;

/// Whether `response` is what somebody who knows `password` answers to `challenge`.
pub(super) fn is_right(password: &str, challenge: &[u8; CHALLENGE_BYTES], response: &[u8; CHALLENGE_BYTES]) -> bool {
    let expected = answer(password, challenge);
    // Every byte is looked at, so that the time taken says nothing.
    expected.iter().zip(response).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// What somebody who knows `password` answers to `challenge`.
pub fn answer(password: &str, challenge: &[u8; CHALLENGE_BYTES]) -> [u8; CHALLENGE_BYTES] {
    let mut key = [0; KEY_BYTES];
    // The protocol numbers the bits of a key's bytes from the other end.
    key.iter_mut().zip(password.bytes()).for_each(|(key, byte)| *key = byte.reverse_bits());
    let des = Des::new(&Array(key));
    let mut answer = *challenge;
    for block in answer.chunks_exact_mut(BLOCK_BYTES) {
        let mut enciphered = [0; BLOCK_BYTES];
        enciphered.copy_from_slice(block);
        let mut enciphered = Array(enciphered);
        des.encrypt_block(&mut enciphered);
        block.copy_from_slice(&enciphered);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `vncdotool` 1.4.2 answers.
    #[test]
    fn others_answer_the_same() {
        let challenge = *b"0123456789abcdef";
        let answered = answer("password", &challenge);
        assert!(is_right("password", &challenge, &answered));
        assert!(is_right("password and more", &challenge, &answered), "only eight bytes count");
        assert!(!is_right("passwort", &challenge, &answered));
        assert!(!is_right("", &challenge, &answered));
    }
}
