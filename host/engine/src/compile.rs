//! Component to machine code: in a child process with limits on time and address space, or here for tests.

use std::{
    io::{self, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

use crate::{
    settings::{CompileLimits, HelperCommand, Profile},
    target::Target,
};

/// Bytes of the child's standard error that are kept.
const MAX_STDERR_BYTES: u64 = 8 << 10;

/// Machine code for each byte of a component; 5 to 10 were seen. Beyond, the compiler is being abused to fill the disk.
const CODE_FACTOR: u64 = 64;
/// Machine code that even a tiny component may have.
const CODE_BYTES: u64 = 64 << 20;

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component's file.
    #[error("cannot read the component {0}")]
    Read(PathBuf, #[source] io::Error),
    /// The compiled form's file.
    #[error("cannot write the compiled form {0}")]
    Write(PathBuf, #[source] io::Error),
    /// The compiler's words.
    #[error("does not compile: {0}")]
    Invalid(String),
    /// The helper process could not be started.
    #[error("cannot start the compiler {0}")]
    Spawn(PathBuf, #[source] io::Error),
    /// The helper process ended badly; its last words.
    #[error("the compiler failed ({status}): {stderr}")]
    Helper {
        /// Exit code or signal.
        status: String,
        /// Its standard error, cut.
        stderr: String,
    },
    /// A limit of [`CompileLimits`].
    #[error("compiling took more than {0}; raise the limit, or compile it elsewhere")]
    Limit(String),
    /// [`HelperCommand::Nobody`].
    #[error("this host has no compiler; it runs only components that were compiled before")]
    NoCompiler,
}

/// Compiles the component at `input` and writes its machine code to `output`, which must not exist yet. The body of the
/// helper process; sets no limits, since its parent does, and begins once it has: when its standard input ends. Without a target
/// the code is for this machine's very processor.
///
/// # Errors
/// See [`CompileError`]; `output` may then exist with any content.
#[cfg(feature = "compiler")]
pub fn compile_helper(
    input: &Path,
    output: &Path,
    profile: Profile,
    target: Option<Target>,
) -> Result<(), CompileError> {
    // Whatever it is: it has ended.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    compile_here(input, output, profile, target)
}

#[cfg(feature = "compiler")]
fn compile_here(input: &Path, output: &Path, profile: Profile, target: Option<Target>) -> Result<(), CompileError> {
    let bytes = std::fs::read(input).map_err(|error| CompileError::Read(input.to_owned(), error))?;
    let code = compiler(profile, target)
        .and_then(|engine| engine.precompile_component(&bytes))
        .map_err(|error| CompileError::Invalid(format!("{error:#}")))?;
    write_new(output, &code).map_err(|error| CompileError::Write(output.to_owned(), error))
}

#[cfg(feature = "compiler")]
fn compiler(profile: Profile, target: Option<Target>) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = profile.config();
    if let Some(target) = target {
        config.target(target.triple())?;
    }
    if target == Some(Target::Riscv64) {
        for extension in ["has_m", "has_a", "has_f", "has_d", "has_zicsr", "has_zifencei"] {
            // SAFETY: the flag lets the compiler use instructions that every processor of this target has: the `g` of
            // `riscv64gc`, without which the backend does not work.
            #[allow(unsafe_code)]
            unsafe {
                config.cranelift_flag_enable(extension);
            }
        }
    }
    wasmtime::Engine::new(&config)
}

/// Writes a file that must not exist, readable by its owner alone, and waits until it is on the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Compiles `input` into the new file `output` as the settings say; see [`compile_helper`] about `target`.
pub(crate) async fn compile(
    helper: &HelperCommand,
    limits: CompileLimits,
    profile: Profile,
    target: Option<Target>,
    input: &Path,
    output: &Path,
) -> Result<(), CompileError> {
    match helper {
        HelperCommand::Nobody => Err(CompileError::NoCompiler),
        #[cfg(not(feature = "compiler"))]
        HelperCommand::InProcess => Err(CompileError::NoCompiler),
        #[cfg(feature = "compiler")]
        HelperCommand::InProcess => {
            let (input, output) = (input.to_owned(), output.to_owned());
            tokio::task::spawn_blocking(move || compile_here(&input, &output, profile, target))
                .await
                .unwrap_or_else(|panic| Err(CompileError::Invalid(format!("the compiler panicked: {panic}"))))
        }
        HelperCommand::Process { program, args } => {
            let mut command = Command::new(program);
            command.args(args).arg(input).arg(output).arg(profile.as_str()).args(target.map(Target::as_str));
            let component =
                std::fs::metadata(input).map_err(|error| CompileError::Read(input.to_owned(), error))?.len();
            let code = component.saturating_mul(CODE_FACTOR).saturating_add(CODE_BYTES);
            run_helper(command, program, limits, code).await
        }
    }
}

async fn run_helper(
    mut command: Command,
    program: &Path,
    limits: CompileLimits,
    code: u64,
) -> Result<(), CompileError> {
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| CompileError::Spawn(program.to_owned(), error))?;
    restrict(&child, limits, code).map_err(|error| CompileError::Spawn(program.to_owned(), error))?;
    drop(child.stdin.take()); // now it may begin
    let stderr = child.stderr.take();
    let work = async {
        let stderr = last_words(stderr).await; // ends with the child
        (child.wait().await, stderr)
    };
    let Ok((status, stderr)) = tokio::time::timeout(limits.wall, work).await else {
        return Err(CompileError::Limit(format!("{:?}", limits.wall))); // dropping the child kills it
    };
    let status = status.map_err(|error| CompileError::Spawn(program.to_owned(), error))?;
    judge(status, stderr, limits, code)
}

/// Sets the child's limits from here: it needs no code of its own for that, and none of its input can avoid them. It waits until
/// that is done (see [`compile_helper`]); else, on a busy machine, it might be done before.
fn restrict(child: &Child, limits: CompileLimits, code: u64) -> io::Result<()> {
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
        return Ok(()); // it has ended already
    };
    let cpu = limits.cpu.as_secs().max(1);
    // At the lower limit of CPU time comes SIGXCPU, which says what happened; at the upper one SIGKILL.
    let all = [
        (Resource::Cpu, cpu, cpu + 5),
        (Resource::As, limits.address_space, limits.address_space),
        (Resource::Fsize, code, code),
        (Resource::Core, 0, 0),
    ];
    for (resource, current, maximum) in all {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        match rustix::process::prlimit(Some(pid), resource, limit) {
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads all, so that the child never blocks, and keeps the beginning.
async fn last_words(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut stderr) = stderr {
        let _ = (&mut stderr).take(MAX_STDERR_BYTES).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

fn judge(status: ExitStatus, stderr: String, limits: CompileLimits, code: u64) -> Result<(), CompileError> {
    match (status.success(), status.signal()) {
        (true, _) => Ok(()),
        (_, Some(signal)) if signal == Signal::XCPU.as_raw() => {
            Err(CompileError::Limit(format!("{:?} of CPU time", limits.cpu)))
        }
        (_, Some(signal)) if signal == Signal::XFSZ.as_raw() => {
            Err(CompileError::Limit(format!("{} of machine code", crate::limits::bytes(code))))
        }
        _ => Err(CompileError::Helper { status: status.to_string(), stderr: crate::exit::one_line(&stderr) }),
    }
}
