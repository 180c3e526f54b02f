//! helixctl: hands the arguments to the library and its answer to the shell.

fn main() -> std::process::ExitCode {
    helix_names::without_plugins();
    helixctl::run(std::env::args_os())
}
