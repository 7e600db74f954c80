//! `marram state list` and `remove`: what modules keep, deployed or not. Removes only what is named: itself, or by the host that runs, which
//! knows whose state is open.

use std::path::PathBuf;

use marram_core::{name::ModuleName, ports::States as _};
use marram_store::{KeptState, LockError, StateFolder, kept_states, lock_data_dir};
use serde::Serialize;

use crate::{
    args::{Ask, RemoveState, State},
    cache::{refuse_anothers, write},
    client::{Call, segment},
    config,
    failure::{Code, Failure},
    output::{Table, bytes, plain},
};

/// One module's state.
#[derive(Serialize)]
struct Kept {
    module: String,
    bytes: u64,
}

pub(crate) fn state(args: State) -> Result<(), Failure> {
    match args {
        State::List(ask) => {
            let kept: Vec<Kept> = kept(&data_folder(&ask)?)?.into_iter().map(Kept::of).collect();
            write(ask.format, &kept, |kept| list_text(kept))
        }
        State::Remove(RemoveState { module, ask }) => {
            let removed = remove(&module, &data_folder(&ask)?)?;
            write(ask.format, &removed, |removed| {
                format!("removed the state of {}, {}\n", plain(&removed.module), bytes(removed.bytes))
            })
        }
    }
}

impl Kept {
    fn of(kept: KeptState) -> Self {
        Self { module: kept.module, bytes: kept.bytes }
    }
}

fn data_folder(ask: &Ask) -> Result<PathBuf, Failure> {
    let config = config::load(ask.place.config.as_deref())?;
    let data = config::data_folder(&ask.place, Some(&config))?;
    if !data.is_dir() {
        let message = format!("there is no data folder {}", data.display());
        return Err(Failure::new(Code::Failed, message).hint("name it with --data DIR"));
    }
    Ok(data)
}

fn kept(data: &std::path::Path) -> Result<Vec<KeptState>, Failure> {
    let folder = data.join("state");
    kept_states(&folder)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot read the folder {}: {error}", folder.display())))
}

fn remove(module: &str, data: &std::path::Path) -> Result<Kept, Failure> {
    let name = ModuleName::new(module).map_err(|error| Failure::failed(&error))?;
    refuse_anothers(data)?;
    let lock = match lock_data_dir(data) {
        Err(LockError::Held { .. }) => None, // whoever has it is the one to ask
        lock => Some(lock.map_err(|error| Failure::failed(&error))?),
    };
    let Some(found) = kept(data)?.into_iter().find(|kept| kept.is_of(&name)) else {
        let message = format!("module `{name}` keeps no state in {}", data.display());
        return Err(Failure::new(Code::Failed, message).hint("`marram state list` shows those that do"));
    };
    if lock.is_none() {
        let _ = Call::post(format!("/v1/modules/{}/state/remove", segment(name.as_str()))).send(data)?;
        return Ok(Kept::of(found));
    }
    let states = StateFolder::open(data.join("state")).map_err(|error| Failure::failed(&error))?;
    states.remove(&name).map_err(|error| Failure::failed(&error))?;
    Ok(Kept::of(found))
}

fn list_text(kept: &[Kept]) -> String {
    let mut table = Table::new(&["MODULE", "SIZE"], &[1]);
    for Kept { module, bytes: size } in kept {
        table.row([plain(module).into_owned(), bytes(*size)]);
    }
    table.text()
}
