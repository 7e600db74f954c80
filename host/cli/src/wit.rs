//! A component's imports and exports with their types, as WIT. Reads types only; the rest of the binary is not looked at.

use std::panic::{AssertUnwindSafe, catch_unwind};

use marram_registry::Kind;
use wit_component::{DecodedWasm, WitPrinter, decode};

/// The WIT of a validated component: its world first, then the packages that it uses.
///
/// # Errors
/// It has no types to tell of: a core module, or one that the decoder does not understand.
pub(crate) fn text(bytes: &[u8]) -> Result<String, String> {
    // The decoder asserts what it believes of components; ours come from strangers.
    let printed = catch_unwind(AssertUnwindSafe(|| print(bytes)));
    printed.unwrap_or_else(|_| Err("its types make no sense to the decoder".to_owned()))
}

fn print(bytes: &[u8]) -> Result<String, String> {
    // The decoder takes a core module for a component without imports and exports.
    if marram_registry::inspect(bytes)?.kind == Kind::CoreModule {
        return Err("it is a core module; only components have types to tell of".to_owned());
    }
    let decoded = decode(bytes).map_err(|error| format!("its types cannot be read: {error:#}"))?;
    if matches!(decoded, DecodedWasm::WitPackage(..)) {
        return Err("it is a package of WIT, not a component".to_owned());
    }
    let (resolve, main) = (decoded.resolve(), decoded.package());
    let others: Vec<_> = resolve.packages.iter().map(|(id, _)| id).filter(|id| *id != main).collect();
    let mut printer = WitPrinter::default();
    printer.print(resolve, main, &others).map_err(|error| format!("its types cannot be written: {error:#}"))?;
    Ok(printer.output.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wat: &str) -> Result<String, String> {
        text(&wat::parse_str(wat).unwrap())
    }

    #[test]
    fn a_world_and_the_packages_that_it_uses_are_written() {
        let wit = of(r#"(component
            (import "plant:clock/time@1.2.0" (instance (export "now" (func (result u64)))))
            (import "greet" (func $greet (param "name" string) (result string))))"#)
        .unwrap();
        for line in [
            "world root",
            "import plant:clock/time@1.2.0;",
            "import greet: func(name: string) -> string;",
            "package plant:clock@1.2.0 {",
            "now: func() -> u64;",
        ] {
            assert!(wit.contains(line), "`{line}` is missing:\n{wit}");
        }
    }

    #[test]
    fn what_has_no_types_to_tell_of_is_said() {
        assert!(of("(module)").is_err());
    }
}
