//! Runs a stock OCI registry on a free loopback port, with its data in a given folder.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    shell::{command, end, write},
};

/// A registry answers within a fraction of a second; a loaded machine may take some.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Another program may take the free port before the registry does; that it happens thrice is no accident.
const TRIES: u32 = 3;

/// A running registry; ends when it is dropped.
pub(crate) struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Registry {
    /// Starts one and waits until it answers. `folder` is made; its log goes there too.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let mut last = String::new();
        for _ in 0..TRIES {
            match Self::try_start(folder) {
                Ok(registry) => return Ok(registry),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn try_start(folder: &Path) -> Result<Self> {
        let address = free_address()?;
        let config = folder.join("config.yml");
        let data = folder.join("data");
        write(
            &config,
            &format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
                data.display()
            ),
        )?;
        let log = folder.join("registry.log");
        let file = fs::File::create(&log).map_err(|err| format!("cannot write {}: {err}", log.display()))?;
        let child = command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|err| format!("cannot start docker-registry: {err}"))?;
        let mut registry = Self { child, address };
        registry.wait_until_up().map_err(|why| format!("{why}; see {}", log.display()))?;
        Ok(registry)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            if answers(&self.address) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("docker-registry ended with {status}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("docker-registry did not answer on {} within {} s", self.address, START_LIMIT.as_secs()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn free_address() -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|err| format!("no free port: {err}"))?;
    listener.local_addr().map(|address| address.to_string()).map_err(|err| format!("no free port: {err}"))
}

/// Whether `GET /v2/`, the registry protocol's greeting, is answered.
fn answers(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut answer = [0; 12];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && write!(stream, "GET /v2/ HTTP/1.0\r\nHost: {address}\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b" 200")
}
