pub(crate) const SHOW: &str = "demo-show";
pub(crate) fn demo(_: crate::guests::Choice, _: bool) -> crate::Result<()> {
    Ok(())
}
pub(crate) fn show(_: &[String]) -> crate::Result<()> {
    Ok(())
}
