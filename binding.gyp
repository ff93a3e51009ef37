{
  "targets": [
    {
      "target_name": "xenlighten_host",
      "sources": ["native/host/addon.c", "native/host/memory.c", "native/host/clock.c", "native/host/holes.c", "native/host/machine.c"],
      "defines": ["NAPI_VERSION=8"],
      "conditions": [
        [
          "OS=='linux'",
          {
            "sources": [
              "native/host/linux/linux.c",
              "native/host/linux/memory.c",
              "native/host/linux/threads.c",
              "native/host/linux/descriptors.c",
              "native/host/linux/files.c",
              "native/host/linux/file-io.c",
              "native/host/linux/kvm.c"
            ],
            "cflags": ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
          }
        ],
        [
          "OS=='win'",
          {
            "sources": [
              "native/host/win32/win32.c",
              "native/host/win32/memory.c",
              "native/host/win32/threads.c",
              "native/host/win32/whp.c",
              "native/host/win32/files.c"
            ],
            "include_dirs": ["native/third-party/whp"],
            "libraries": ["-lsynchronization", "-lwinmm"],
            "cflags": ["-std=c11", "-D_WIN32_WINNT=0x0A00", "-D__USE_MINGW_ANSI_STDIO=1", "-Wall", "-Wextra", "-Werror"]
          }
        ]
      ]
    }
  ],
  "conditions": [
    [
      "OS=='linux'",
      {
        "targets": [
          {
            "target_name": "xl-launch",
            "type": "executable",
            "sources": ["native/host/linux/launch.c"],
            "cflags": ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"],
            "ldflags": ["-static"]
          }
        ]
      }
    ]
  ]
}
