//! helixctl: hands the arguments to the library and its answer to the shell.

fn main() -> std::process::ExitCode {
    helixctl::run(std::env::args_os())
}
