//! stub
use anyhow::Result;

pub(crate) fn run(_report: &mut crate::frame::Report) -> Result<()> {
    Ok(())
}
