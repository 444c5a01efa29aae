//! stub
pub(crate) async fn execute(_: &crate::args::CompareArgs) -> anyhow::Result<()> { Ok(()) }
