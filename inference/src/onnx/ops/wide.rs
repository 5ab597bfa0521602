//! Loops with the widest instructions that this machine has.

/// A computation that is compiled twice: for every machine of its kind, and for those with wide, fused instructions.
pub(super) trait Wide {
    /// `FUSED`: multiplying and adding is one instruction. To be inlined, always.
    fn go<const FUSED: bool>(self);
}

/// Runs it. The only place of this crate where the compiler has to take our word.
pub(super) fn run(work: impl Wide) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        #[allow(unsafe_code)]
        // SAFETY: the machine has just said that it has both.
        return unsafe { run_wide(work) };
    }
    work.go::<{ cfg!(target_arch = "aarch64") }>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_wide(work: impl Wide) {
    work.go::<true>();
}
