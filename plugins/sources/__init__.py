"""Built-in sources: folders, tables, COCO JSON and webdataset tars."""
