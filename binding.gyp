{
  "targets": [
    {
      "target_name": "xenlighten_host",
      "sources": [
        "native/host/addon.c",
        "native/host/memory.c",
        "native/host/clock.c",
        "native/host/descriptors.c",
        "native/host/files.c",
        "native/host/file-io.c",
        "native/host/kvm.c"
      ],
      "cflags": [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror"
      ],
      "defines": [
        "NAPI_VERSION=8"
      ]
    },
    {
      "target_name": "xl-launch",
      "type": "executable",
      "sources": [
        "native/host/launch.c"
      ],
      "cflags": [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror"
      ],
      "ldflags": [
        "-static"
      ]
    }
  ]
}
