//! The machines that code is made for: Linux on the 64-bit processors that Cranelift knows and devices have.

use std::{fmt, str::FromStr};

/// A kind of machine. 32-bit ARM is not among them: Cranelift has no backend for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any 64-bit Intel or AMD.
    X86_64,
    /// Any 64-bit ARM.
    Aarch64,
    /// RISC-V with the extensions `gc`, as every Linux distribution asks for.
    Riscv64,
}

/// A text that names no [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no code can be made for `{0}` (x86_64-linux, aarch64-linux, riscv64-linux, or a target triple of these as \
     aarch64-unknown-linux-musl; 32-bit processors are not supported)"
)]
pub struct ParseTargetError(String);

impl Target {
    const ALL: [Self; 3] = [Self::X86_64, Self::Aarch64, Self::Riscv64];

    /// This machine's, if code can be made for it.
    #[must_use]
    pub fn here() -> Option<Self> {
        here().parse().ok()
    }

    /// As it stands in the names of compiled code: `aarch64-linux`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux",
            Self::Aarch64 => "aarch64-linux",
            Self::Riscv64 => "riscv64-linux",
        }
    }

    /// As wasmtime wants it. The C library does not count: guests call none.
    #[cfg(feature = "compiler")]
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
            Self::Riscv64 => "riscv64gc-unknown-linux-gnu",
        }
    }
}

/// The machine that this binary was built for, as [`Target::as_str`] writes it; also of kinds that are no [`Target`].
pub(crate) fn here() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    /// `aarch64-linux`, or a triple of rustc or LLVM; of the latter, processor and system count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseTargetError(text.to_owned());
        let (processor, rest) = text.split_once('-').ok_or_else(wrong)?;
        if !rest.split('-').any(|part| part == "linux") {
            return Err(wrong());
        }
        // `riscv64gc` is rustc's name for what LLVM and the kernel call `riscv64`.
        let processor = if processor == "riscv64gc" { "riscv64" } else { processor };
        Self::ALL.into_iter().find(|target| target.as_str().strip_suffix("-linux") == Some(processor)).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_from_its_name_and_from_triples() {
        for target in Target::ALL {
            assert_eq!(target.as_str().parse(), Ok(target));
        }
        assert_eq!("aarch64-unknown-linux-musl".parse(), Ok(Target::Aarch64));
        assert_eq!("riscv64gc-unknown-linux-gnu".parse(), Ok(Target::Riscv64));
    }

    #[test]
    fn what_has_no_backend_or_is_not_linux_is_refused_by_name() {
        for text in ["", "aarch64", "armv7-unknown-linux-gnueabihf", "x86_64-pc-windows-msvc", "x86_64-linuxulator"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn this_machine_is_named_as_its_target() {
        if let Some(target) = Target::here() {
            assert_eq!(target.as_str(), here());
        }
    }
}
