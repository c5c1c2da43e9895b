progenitor::generate_api!("../../../../openapi/otter-3.0.json");
fn main() {}
