//! What the help and the manual pages say beyond the options: explanations, examples, exit codes. The options themselves
//! stand in `args`.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use crate::args::Cli;

/// How a command ends; `docs/cli.md` says the same.
pub(crate) const EXIT_CODES: [(&str, &str); 9] = [
    ("0", "done"),
    ("1", "failed"),
    ("2", "usage"),
    ("3", "a document has faults"),
    ("4", "no host answers"),
    ("5", "no such module"),
    ("6", "refused in this state"),
    ("7", "the data folder is in use"),
    ("8", "a method failed, or did not answer in time"),
];

/// More about one command.
pub(crate) struct More {
    /// The command without `marram`: `twin set`.
    pub(crate) command: &'static str,
    /// Paragraphs, one a line; may be empty.
    pub(crate) text: &'static str,
    /// Command lines, and what they do.
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

const MORE: &[More] = &[
    More {
        command: "run",
        text: "Without DEPLOYMENT the stored deployment runs, without asking any network. With it the file is put in force in \
               place of the stored one, and each later version of the file as soon as it is complete; a version with faults \
               changes nothing.\nSIGTERM and Ctrl-C stop the modules in order, hand over what was accepted for upstream, and \
               end with exit code 0; a second one ends at once.\nOn a terminal, modules and queues are drawn once a second \
               below the log; otherwise log lines go to standard error.",
        examples: &[
            (
                "marram run deployment.json --data ./data",
                "run a file's deployment, with the state in a folder beside it",
            ),
            ("marram run --log-format json", "run what is stored, with a log for programs"),
        ],
    },
    More {
        command: "init",
        text: "Writes marram.toml, with every key and its meaning, and deployment.json for a first module. What is there is never \
               written over.",
        examples: &[("marram init my-device", "begin in a new folder"), ("marram init", "begin in this one")],
    },
    More {
        command: "check",
        text: "All faults are told at once, each with its place, its path and what to try; exit code 3. What is allowed and \
               probably not meant so is warned of, and is a fault with --strict only. Asks no registry and no host.",
        examples: &[
            ("marram check deployment.json", "read a deployment manifest"),
            ("marram check marram.toml", "read the settings of a device, and the files that they name"),
            ("marram check --strict --format json deployment.json", "for a script that lets nothing odd through"),
        ],
    },
    More {
        command: "apply",
        text: "The answer comes when the manifest is checked and stored; modules are fetched and started after it. A manifest \
               with faults is refused as a whole, and what runs goes on.",
        examples: &[("marram apply deployment.json", "deploy"), ("marram apply -", "deploy what standard input says")],
    },
    More {
        command: "plan",
        text: "One step a module at the most: pull, start, stop, restart, update, remove, wait, give-up. A module that is as the \
               deployment wants it has none. Nothing is done, fetched or stored.\nWith --observed no host is asked. The report \
               has the form of the reported properties of $edgeAgent; docs/cli.md has it.",
        examples: &[
            ("marram plan --deployment deployment.json", "what `marram apply` would begin with"),
            (
                "marram plan --deployment deployment.json --observed report.json --now 2026-01-31T12:00:00Z --format json",
                "the planner's answer to a picture of your own, for a script",
            ),
        ],
    },
    More {
        command: "history",
        text: "The newest first, `*` is in force; the last twenty are kept. A deployment is good once all its modules have been up \
               for the probation that it asks for, a minute unless it says otherwise. docs/manifest.md says when one is rolled \
               back.",
        examples: &[
            ("marram history", "what was deployed when, and how that went"),
            ("marram history --format json", "the same for a script, with the digest of each manifest"),
        ],
    },
    More {
        command: "rollback",
        text: "The manifest of the earlier deployment becomes a new deployment, with a version of its own. The one in force counts as \
               rolled back: its manifest is not applied again until it changes, or until `--to` names it.",
        examples: &[
            ("marram rollback", "back to the last deployment that was good"),
            ("marram rollback --to 4", "to this one, whatever became of it"),
        ],
    },
    More {
        command: "list",
        text: "",
        examples: &[("marram list --format json", "modules, queues and counters, for a script")],
    },
    More {
        command: "status",
        text: "The reported properties of $edgeAgent and $edgeHub. A manifest that was refused, or rolled back, is told with its \
               reason. `marram plan --observed` reads the part of $edgeAgent.",
        examples: &[
            ("marram status", "did it work, and if not, why"),
            ("marram status --format json", "both documents, as IoT Edge reports them"),
        ],
    },
    More {
        command: "logs",
        text: "The host keeps the last 256 KiB of each module in memory, over the module's restarts but not over its own.",
        examples: &[
            ("marram logs filter --tail 20", "the last 20 lines"),
            ("marram logs filter --follow --since 10m", "the last ten minutes, and what comes"),
        ],
    },
    More {
        command: "traps",
        text: "The newest first; ten of each module at the most, over restarts of the host and after the module has left the \
               deployment. With `modules.trap-bodies` in marram.toml, the beginning of the message is among it; with \
               `modules.core-dump-max-bytes`, a core dump: what the module had in memory, secrets too.",
        examples: &[
            ("marram traps filter", "reason, what it was doing, and the frames of its stack"),
            ("marram traps filter --format json", "the same for a script"),
            ("marram traps filter --dump filter.core", "the core dump, for a debugger"),
        ],
    },
    More {
        command: "restart",
        text: "The restart happens at once, without a back-off. It does not fetch the image again.",
        examples: &[("marram restart filter", "begin anew")],
    },
    More {
        command: "twin get",
        text: "",
        examples: &[("marram twin get filter", "all properties with their versions")],
    },
    More {
        command: "twin set",
        text: "The patch is a JSON merge patch (RFC 7396). A later deployment replaces what is set here only when its own section \
               for the module has changed.",
        examples: &[
            ("marram twin set filter '{\"threshold\": 40}'", "change one property"),
            ("marram twin set filter '{\"threshold\": null}'", "remove it"),
        ],
    },
    More {
        command: "twin watch",
        text: "Goes on over restarts of the module, and ends with exit code 5 when it leaves the deployment. Changes that come \
               faster than they can be shown are shown as one, with their number.\nWith --format json each line is an object: \
               timeMs, section (desired or reported), version, origin (of desired), patch (null in the first), properties, \
               coalesced.",
        examples: &[("marram twin watch filter", "what is, and what changes")],
    },
    More {
        command: "method invoke",
        text: "The call waits its turn: a module answers between two of its own calls, and before the messages that wait for it. Writes the \
               status and the payload of the answer; a status of 400 or above is exit code 8, and so is no answer in time. A module that does \
               not run is exit code 6, at once unless --connect-timeout says otherwise.\n$edgeAgent has ping, RestartModule, GetModuleLogs and \
               GetTaskStatus, as in IoT Edge; docs/methods.md has their payloads.",
        examples: &[
            ("marram method invoke valve open '{\"percent\": 40}'", "call a module's method"),
            ("marram method invoke valve position --connect-timeout 20", "wait for a module that is being started"),
            (
                "marram method invoke '$edgeAgent' RestartModule '{\"schemaVersion\": \"1.0\", \"id\": \"valve\"}'",
                "as the cloud would",
            ),
        ],
    },
    More {
        command: "route explain",
        text: "Answers why a message did not arrive: the value of each part of each condition, and where an undefined one comes \
               from. Asks no host. Without --message it tells which routes have this source.",
        examples: &[(
            "marram route explain --deployment deployment.json --source /messages/modules/sensor/outputs/temp --message m.json",
            "what becomes of the message in m.json",
        )],
    },
    More {
        command: "route eval",
        text: "Reads JSON lines from standard input and answers each with one line; made to test routes, 100,000 lines take \
               seconds. docs/routes.md has the forms.",
        examples: &[(
            "marram route eval",
            "then, for example: {\"condition\":\"as_number(t) > 5\",\"message\":{\"properties\":{\"t\":\"6\"}}}",
        )],
    },
    More {
        command: "queues",
        text: "What waits in the message log is among it. RETRIED are deliveries that failed and are made again.",
        examples: &[("marram queues", "what waits, how old it is, what was given up and why")],
    },
    More {
        command: "metrics",
        text: "The text format of Prometheus, with IoT Edge's names where it has one. docs/metrics.md says what each number means, \
               and how a collector reads them over HTTP (`metrics.listen` in marram.toml).",
        examples: &[("marram metrics", "all numbers, for a collector of text files or for a look")],
    },
    More {
        command: "deadletters replay",
        text: "A replay goes to the receiver that the message had, as a new message there: with the priority, the time to live and the \
               attempts that the routes in force give it.",
        examples: &[
            ("marram deadletters replay 7 9", "once the receiver is mended"),
            ("marram deadletters replay --all", "all of them, the oldest first"),
        ],
    },
    More {
        command: "cache list",
        text: "Works with and without a running host.",
        examples: &[("marram cache list", "what is kept, how large, and for whom")],
    },
    More {
        command: "cache prune",
        text: "What the deployment names, and what runs, stays whatever is asked. Works with and without a running host.",
        examples: &[
            ("marram cache prune --older-than 30d --dry-run", "see what was not used for a month"),
            ("marram cache prune --to 64MiB", "make room"),
        ],
    },
    More {
        command: "state list",
        text: "Works with and without a running host; the host never removes state by itself.",
        examples: &[("marram state list", "which modules keep how much")],
    },
    More {
        command: "state remove",
        text: "For good: there is no copy. A module that runs has its state open, so it is stopped first; the host may run.",
        examples: &[("marram state remove thermostat", "let it begin anew, or be forgotten")],
    },
    More {
        command: "module push",
        text: "Credentials come from marram.toml or from standard input, never from the command line, which others can see. The \
               answer is the reference that pins what was pushed.",
        examples: &[
            ("marram module push filter.wasm registry.example.com/filter:1.2", "into a registry"),
            ("marram module push filter.wasm oci:/srv/images:filter", "into an image-layout folder"),
        ],
    },
    More {
        command: "module pull",
        text: "Every digest is checked. The file appears whole or not at all.",
        examples: &[("marram module pull registry.example.com/filter:1.2 filter.wasm", "out of a registry")],
    },
    More {
        command: "module inspect",
        text: "",
        examples: &[
            ("marram module inspect filter.wasm", "a file"),
            ("marram module inspect filter.wasm --wit", "its types"),
            ("marram module inspect registry.example.com/filter:1.2 --format json", "an image, for a script"),
        ],
    },
    More {
        command: "module componentize",
        text: "For modules of WASI preview 1 (Rust: wasm32-wasip1) with wasmtime's adapters, and for those that wit-bindgen made for \
               the interfaces of marram:edge. What stands against it is told all at once. `module push` does the same by itself.",
        examples: &[
            ("marram module componentize old.wasm new.wasm", "its exports tell whether it is a program"),
            ("marram module componentize old.wasm new.wasm --adapter command", "insist on a program"),
        ],
    },
    More {
        command: "compile",
        text: "A host without a compiler runs this code instead of compiling: copy the folder to the device, and name it in \
               `engine.precompiled` of its marram.toml.",
        examples: &[("marram compile filter.wasm --output precompiled", "for machines of this kind")],
    },
    More {
        command: "completions",
        text: "",
        examples: &[
            ("marram completions bash", "for ~/.local/share/bash-completion/completions/marram"),
            ("marram completions zsh", "for a file _marram in a folder of $fpath"),
            ("marram completions fish", "for ~/.config/fish/completions/marram.fish"),
        ],
    },
    More {
        command: "man",
        text: "",
        examples: &[
            ("marram man", "marram.1; pipe it into `man -l -`"),
            ("marram man --output ~/.local/share/man/man1", "all pages, where man looks for a user's own"),
        ],
    },
    More { command: "version", text: "", examples: &[("marram version --format json", "for a script")] },
];

/// The whole command line, with examples in its `--help`.
pub(crate) fn command() -> Command {
    with_more(Cli::command(), "")
}

fn with_more(command: Command, path: &str) -> Command {
    let command = match more(path) {
        Some(more) => command.after_long_help(more.to_help()),
        None => command,
    };
    command.mut_subcommands(|inner| {
        let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
        with_more(inner, &path)
    })
}

/// What there is to say about a command: `twin set`.
pub(crate) fn more(path: &str) -> Option<&'static More> {
    MORE.iter().find(|more| more.command == path)
}

impl More {
    fn to_help(&self) -> String {
        let mut text = String::new();
        for paragraph in self.text.lines() {
            let _ = writeln!(text, "{paragraph}\n");
        }
        text.push_str("Examples:");
        for (line, what) in self.examples {
            let _ = write!(text, "\n  {line}\n      {what}");
        }
        text
    }
}

/// `Exit codes: 0 done, 1 failed …`.
pub(crate) fn exit_codes() -> String {
    let codes: Vec<String> = EXIT_CODES.iter().map(|(code, meaning)| format!("{code} {meaning}")).collect();
    format!("Exit codes: {}.", codes.join(", "))
}

#[cfg(all(test, feature = "author"))]
mod tests {
    use super::*;

    /// The paths of all visible commands that do something.
    fn leaves(command: &Command, path: &str) -> Vec<String> {
        let visible = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        let inner: Vec<String> =
            visible.flat_map(|inner| leaves(inner, format!("{path} {}", inner.get_name()).trim_start())).collect();
        if inner.is_empty() { vec![path.to_owned()] } else { inner }
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        let commands = leaves(&Cli::command(), "");
        for more in MORE {
            assert!(commands.iter().any(|command| command == more.command), "{}", more.command);
            assert!(!more.examples.is_empty(), "{}", more.command);
            for (line, what) in more.examples {
                assert!(line.starts_with(&format!("marram {}", more.command)) && !what.is_empty(), "{line}");
                command().try_get_matches_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    /// As a shell takes a line apart: at blanks outside of single quotes.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words
    }
}
