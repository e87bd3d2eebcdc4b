//! What the targets share: files that are almost sound, because noise alone hardly gets behind a header.

use std::path::PathBuf;

/// A folder of this process; what is written there is written over and over.
///
/// # Panics
/// Where the system has no room for a temporary folder.
pub fn folder() -> PathBuf {
    tempfile::tempdir().expect("a temporary folder").keep()
}

/// Lets panics be caught, as the reader of Parquet does with those of the library below it: libFuzzer's hook ends the process
/// at any panic, the one that stands here after this at those that nobody catches.
pub fn let_panics_be_caught() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| drop(std::panic::take_hook()));
}

/// The first byte chooses: noise, or one of the sound files with patches of three bytes (where, where, what), and cut off
/// where the byte is large.
pub fn almost(sound: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let Some((&kind, rest)) = data.split_first() else { return Vec::new() };
    let Some(file) = usize::from(kind % 64).checked_sub(1).and_then(|at| sound.get(at % sound.len().max(1))) else {
        return rest.to_vec();
    };
    let mut bytes = file.clone();
    for patch in rest.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = patch[2];
        }
    }
    if kind >= 192 {
        bytes.truncate(bytes.len() * usize::from(kind - 192) / 64);
    }
    bytes
}
