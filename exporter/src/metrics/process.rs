//! What the operating system says of the process.

/// Resident memory in bytes; `None` where the system does not tell.
pub(crate) fn memory() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_used_is_seen() {
        let before = super::memory().unwrap();
        let used = vec![1u8; 64 << 20];
        let after = super::memory().unwrap();
        // Other tests may give memory back meanwhile.
        assert!(after > before + (48 << 20), "{before} {after}");
        drop(used);
    }
}
