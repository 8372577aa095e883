//! Writes criquet's manual pages and the completions of bash, zsh and fish into a folder, from the command line's own
//! definition: `cargo run --example criquet-manual -- FOLDER`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

const NAME: &str = "criquet";
const SEE_ALSO: &[u8] = b".SH \"SEE ALSO\"\n.BR criquet.toml (5),\n.BR crictl (1)\n";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: criquet-manual FOLDER")?;
    std::fs::create_dir_all(&folder)?;
    pages(&folder)?;
    let mut command = criquet::cli::Cli::command();
    for (shell, file) in [
        (Shell::Bash, "criquet.bash"),
        (Shell::Zsh, "_criquet"),
        (Shell::Fish, "criquet.fish"),
    ] {
        let mut file = std::fs::File::create(folder.join(file))?;
        clap_complete::generate(shell, &mut command, NAME, &mut file);
    }
    Ok(())
}

/// One page a command, as git has them.
fn pages(folder: &Path) -> Result<(), Box<dyn Error>> {
    // No date: a build gives the same bytes on any day.
    clap_mangen::generate_to(criquet::cli::Cli::command(), folder)?;
    let page = folder.join("criquet.1");
    let mut text = std::fs::read(&page)?;
    text.extend_from_slice(SEE_ALSO);
    std::fs::write(page, text)?;
    Ok(())
}
