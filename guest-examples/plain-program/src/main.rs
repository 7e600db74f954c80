//! An ordinary program: no Marram interface, no bindings, nothing to learn. It runs under the host as it runs in a
//! terminal; its standard output and error are the module's log, its exit code decides about a restart.

use std::{env, process::ExitCode, thread, time::Duration};

fn main() -> ExitCode {
    println!("plain-program: args {:?}", env::args().skip(1).collect::<Vec<_>>());
    for (name, value) in env::vars() {
        println!("plain-program: env {name}={value}");
    }
    let run = Duration::from_millis(number("RUN_MS"));
    thread::sleep(run);
    let code = u8::try_from(number("EXIT_CODE")).unwrap_or(u8::MAX);
    eprintln!("plain-program: ran {} ms, exits with {code}", run.as_millis());
    ExitCode::from(code)
}

/// A number from the environment; 0 when the variable is missing or no number, and standard error says so.
fn number(name: &str) -> u64 {
    let Ok(text) = env::var(name) else { return 0 };
    text.parse().unwrap_or_else(|_| {
        eprintln!("plain-program: {name}={text} is no number, taken as 0");
        0
    })
}
