//! What the core instances of a component cost the host besides memories and tables, read from its sections before anything
//! is compiled: a small file can ask for many instances of a module with many globals. Estimates, validates nothing.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ElementItems, ElementKind,
    Instance, Payload,
};

use crate::check::{Refusal, malformed};

// Bytes as wasmtime lays them out on 64-bit systems, rounded up.
const INSTANCE: u64 = 1024;
const COMPONENT: u64 = 512;
const IMPORT: u64 = 32;
const GLOBAL: u64 = 16;
const FUNCTION_REFERENCE: u64 = 32;
const TABLE: u64 = 64;
const MEMORY: u64 = 96;
const SEGMENT: u64 = 16;
const PASSIVE_ELEMENT: u64 = 16;
const CANONICAL_FUNCTION: u64 = 64;

/// Of one instance, all instances within included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    /// Core instances.
    pub(crate) instances: u64,
}

/// Reads payloads in the order of [`wasmparser::Parser::parse_all`].
pub(crate) struct CostReader {
    /// From the outermost component inwards; what ended last is the result.
    open: Vec<Scope>,
    total: Cost,
}

/// A component or core module that is being read, and its index spaces; None: not known before it runs.
#[derive(Default)]
struct Scope {
    is_module: bool,
    cost: Cost,
    modules: Vec<Option<Cost>>,
    components: Vec<Option<Cost>>,
    /// Functions that a core module defines, and places that may refer to one.
    functions: u64,
    references: u64,
}

impl CostReader {
    /// Outside of the outermost component's sections.
    pub(crate) fn new() -> Self {
        Self { open: vec![Scope::default()], total: Cost::default() }
    }

    /// Of the whole, once all was read.
    pub(crate) fn total(&self) -> Cost {
        self.total
    }

    /// Takes in one payload.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], or [`Refusal::Arguments`] when it instantiates what it gets from elsewhere.
    pub(crate) fn read(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::ModuleSection { .. } => self.open.push(Scope { is_module: true, ..Scope::default() }),
            Payload::ComponentSection { .. } => self.open.push(Scope::default()),
            Payload::End(_) => self.close(),
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias.map_err(malformed)?);
                }
            }
            _ => {
                if let Some(scope) = self.open.last_mut() {
                    scope.read_core(payload)?;
                    scope.read_component(payload)?;
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(scope) = self.open.pop() else { return };
        let cost = scope.finish();
        match self.open.last_mut() {
            Some(outer) if scope.is_module => outer.modules.push(Some(cost)),
            Some(outer) => outer.components.push(Some(cost)),
            None => self.total = cost,
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        let (is_module, cost) = match *alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => (true, None),
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => (false, None),
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                (true, self.outer(count).and_then(|scope| known(&scope.modules, index)))
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                (false, self.outer(count).and_then(|scope| known(&scope.components, index)))
            }
            _ => return,
        };
        if let Some(scope) = self.open.last_mut() {
            let space = if is_module { &mut scope.modules } else { &mut scope.components };
            space.push(cost);
        }
    }

    fn outer(&self, count: u32) -> Option<&Scope> {
        self.open.len().checked_sub(1 + count as usize).and_then(|at| self.open.get(at))
    }
}

impl Scope {
    fn read_core(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::ImportSection(section) => self.add(section.count(), IMPORT),
            Payload::FunctionSection(section) => self.functions += u64::from(section.count()),
            Payload::TableSection(section) => self.add(section.count(), TABLE),
            Payload::MemorySection(section) => self.add(section.count(), MEMORY),
            Payload::GlobalSection(section) => {
                self.add(section.count(), GLOBAL);
                self.references += u64::from(section.count());
            }
            Payload::ExportSection(section) => self.references += u64::from(section.count()),
            Payload::DataSection(section) => self.add(section.count(), SEGMENT),
            Payload::ElementSection(section) => {
                self.add(section.count(), SEGMENT);
                for element in section.clone() {
                    let element = element.map_err(malformed)?;
                    let items = match &element.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    self.references += u64::from(items);
                    if matches!(element.kind, ElementKind::Passive) {
                        self.add(items, PASSIVE_ELEMENT);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read_component(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::ComponentCanonicalSection(section) => self.add(section.count(), CANONICAL_FUNCTION),
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance.map_err(malformed)? {
                        self.include(known(&self.modules, module_index))?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance.map_err(malformed)? {
                        self.include(known(&self.components, component_index))?;
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    self.name_again(import.map_err(malformed)?.ty.kind(), None);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export.map_err(malformed)?;
                    self.name_again(export.kind, Some(export.index));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Imports and exports get an index of their own.
    fn name_again(&mut self, kind: ComponentExternalKind, index: Option<u32>) {
        let space = match kind {
            ComponentExternalKind::Module => &mut self.modules,
            ComponentExternalKind::Component => &mut self.components,
            _ => return,
        };
        let cost = index.and_then(|index| known(space, index));
        space.push(cost);
    }

    fn include(&mut self, cost: Option<Cost>) -> Result<(), Refusal> {
        let cost = cost.ok_or(Refusal::Arguments)?;
        self.cost.bytes = self.cost.bytes.saturating_add(cost.bytes);
        self.cost.instances = self.cost.instances.saturating_add(cost.instances);
        Ok(())
    }

    fn add(&mut self, count: u32, each: u64) {
        self.cost.bytes = self.cost.bytes.saturating_add(u64::from(count) * each);
    }

    fn finish(&self) -> Cost {
        let Cost { bytes, instances } = self.cost;
        if self.is_module {
            let references = self.functions.min(self.references) * FUNCTION_REFERENCE;
            return Cost { bytes: bytes.saturating_add(INSTANCE + references), instances: 1 };
        }
        Cost { bytes: bytes.saturating_add(COMPONENT), instances }
    }
}

fn known(space: &[Option<Cost>], index: u32) -> Option<Cost> {
    space.get(index as usize).copied().flatten()
}
