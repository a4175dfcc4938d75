pub(super) const MARK: () = ();
#[derive(Debug)]
pub(super) enum Spliced { Drained }
