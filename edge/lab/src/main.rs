//! The laboratory by itself, for its tests. In the product it is `edgemesh lab`.

fn main() -> std::process::ExitCode {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "lab") {
        args.remove(0);
    }
    edgemesh_lab::run(args)
}
