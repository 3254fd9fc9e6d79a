/// What a compiler objected to.
pub(crate) struct Objection {
    pub(crate) compiler: &'static str,
    pub(crate) message: String,
}

impl Objection {
    pub(crate) fn new(compiler: &'static str, message: &str) -> Self {
        Self { compiler, message: message.trim().to_owned() }
    }
}
