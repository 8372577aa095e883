//! Memory that goes back to the kernel: mallopt(3), malloc_trim(3).

/// Allocations from this size on get pages of their own, which freeing returns at once.
const MMAP_THRESHOLD: i32 = 32 * 1024;

/// Sets the allocator up for a process that must be small while it waits.
pub fn prefer_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number inside the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns freed memory to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks; no pointer is involved.
    unsafe {
        libc::malloc_trim(0);
    }
}
